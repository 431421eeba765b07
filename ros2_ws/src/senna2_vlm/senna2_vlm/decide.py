"""One front frame in, one decision out: all 20 answers are scored in a single forward pass.

The frame may be a pair: the vision tower takes two pictures of the same place in time at once (a still picture is shown
to it twice), so the picture of a moment before costs no further token, and shows what moves.

The answers are packed behind the prompt as a trie: tokens that several answers begin with appear once, each node
attends to the prompt and to its own ancestors only, and its position is that of a token at its depth. So the
probability of every answer equals what 20 separate passes give, for about the price of reading the prompt.

The decision is the most probable of the 20 pairs of a speed and a direction action, whatever order the words of an
answer have and however the tokenizer cuts them; it is the one that the published probabilities name. Greedy decoding
takes the most probable first token (hence the speed action that is likeliest by itself), then the best way on from
there. The two differ only where no answer has more than half of the probability; then greedy's answer has less.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling

from senna2_core.actions import ALL_DECISIONS, Decision
from senna2_core.messages import DecisionOutput
from senna2_core.objects import Navigation
from senna2_vlm.model import CARD, PatchProduct, VlmParts, load_parts, read_card
from senna2_vlm.prompt import ANSWERS, IMAGE_TOKEN, prompt


@dataclass(frozen=True, eq=False)
class AnswerTrie:
    """The A answers as a tree of M tokens, parents before children. Node 0 is the last prompt token, not stored."""

    tokens: torch.Tensor  # (M,) int64
    parents: torch.Tensor  # (M,) int64, 0 = last prompt token, else 1 + index of the parent
    depths: torch.Tensor  # (M,) int64, 0 for first tokens
    ancestry: torch.Tensor  # (M, M) bool, [i, j]: j is i or an ancestor of i
    leaves: torch.Tensor  # (A,) int64, last token of each answer

    @classmethod
    def build(cls, tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> "AnswerTrie":
        """Whatever the tokenizer makes of the answers. ValueError when one answer is the beginning of another."""
        nodes: dict[tuple[int, ...], int] = {}
        sequences = [tuple(ids) for ids in tokenizer(list(answers), add_special_tokens=False).input_ids]
        for sequence in sequences:
            for end in range(1, len(sequence) + 1):
                nodes.setdefault(sequence[:end], len(nodes))
        parents = [nodes[prefix[:-1]] + 1 if len(prefix) > 1 else 0 for prefix in nodes]
        leaves = [nodes[sequence] for sequence in sequences]
        for answer, leaf in zip(answers, leaves, strict=True):
            if leaf + 1 in parents or leaves.count(leaf) > 1:
                raise ValueError(f'answer "{answer}": its tokens begin another answer, wanted answers that differ')
        ancestry = torch.eye(len(nodes), dtype=torch.bool)
        for node, parent in enumerate(parents):
            if parent:
                ancestry[node] |= ancestry[parent - 1]
        return cls(
            torch.tensor([prefix[-1] for prefix in nodes]),
            torch.tensor(parents),
            torch.tensor([len(prefix) - 1 for prefix in nodes]),
            ancestry,
            torch.tensor(leaves),
        )


@dataclass(frozen=True, eq=False)
class Seen:
    """What the vision tower makes of a frame or a pair of frames: all that the language model reads of it."""

    embeddings: torch.Tensor  # (rows * columns, D)
    grid: tuple[int, int]  # rows and columns of image tokens


class DecisionModel:
    """A Qwen2.5-VL that decides; the class that drives and that every training stage trains.

    Hidden states handed to the adapter, K = 2 rows of width D: the final ones of the last prompt token
    (what the model knows before it answers) and of the last token of the chosen answer.
    """

    def __init__(self, parts: VlmParts):
        self.parts = parts
        self.model = parts.model
        vision = self.model.model.visual
        vision.patch_embed = PatchProduct(vision.patch_embed.proj)
        self._trie = AnswerTrie.build(parts.tokenizer, ANSWERS)
        self._image_token = parts.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        device: str = "cpu",
        dtype: torch.dtype | str = "auto",
        stages: tuple[str, ...] = (),
    ) -> "DecisionModel":
        """Load models/small-s1/vlm, Qwen/Qwen2.5-VL-3B-Instruct, or any folder of that class.

        Args:
            name_or_folder: folder or hub name.
            device: torch device.
            dtype: of the weights; "auto" is the one they were saved in.
            stages: when given, the training stages of ours that are accepted (see `model.read_card`).
        Raises:
            ValueError: missing, damaged, of another class, or of another stage; the text says what to do.
        """
        parts = load_parts(name_or_folder, device, dtype)
        if stages or (Path(name_or_folder) / CARD).is_file():
            parts = replace(parts, frame_lag_s=float(read_card(name_or_folder, stages).get("frame_lag_s", 0.0)))
        return cls(parts)

    @property
    def hidden_shape(self) -> tuple[int, int]:
        """K, D of `DecisionOutput.hidden`."""
        return 2, self.model.config.text_config.hidden_size

    def decide(
        self,
        image: np.ndarray,
        navigation: Navigation,
        speed_mps: float,
        *,
        forced: Decision | None = None,
        stamp_ns: int = 0,
    ) -> DecisionOutput:
        """The most probable of the 20 decisions for one front frame, or the forced one.

        Args:
            image: front frame (H, W, 3) uint8 RGB; or (2, H, W, 3), the frame of `parts.frame_lag_s` before first.
            navigation: the route ahead.
            speed_mps: own speed, m/s.
            forced: an operator's decision; the hidden states are then those of its answer.
            stamp_ns: copied to the output.
        Returns:
            decision, probabilities (20,) float32 that sum to 1, hidden (K, D) float32, text.
        """
        with torch.inference_mode():
            log_probabilities, hidden = self.score([image], [navigation], [speed_mps])
            probabilities = log_probabilities[0].float().softmax(0).cpu().numpy()
            decision = forced or ALL_DECISIONS[int(probabilities.argmax())]
            rows = hidden[0, [0, 1 + decision.index]].float().cpu().numpy()
        return DecisionOutput(
            stamp_ns=stamp_ns,
            decision=decision,
            probabilities=probabilities,
            hidden=rows,
            text=decision.text,
            forced=forced is not None,
        )

    def score(
        self, images: Sequence[np.ndarray], navigations: Sequence[Navigation], speeds_mps: Sequence[float]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-likelihood of every answer and the hidden states behind it; differentiable.

        Args:
            images: B front frames (H, W, 3) or pairs (2, H, W, 3), uint8 RGB, as `decide` takes them.
            navigations: B.
            speeds_mps: B, m/s.
        Returns:
            log P(answer | question) (B, 20), not normalised over the 20; final hidden states (B, 1 + 20, D)
            of the last prompt token and of the last token of each answer.
        """
        inputs = self._encode(images, navigations, speeds_mps)
        asked = inputs["attention_mask"].bool()  # (B, P), right-padded
        batch, width = asked.shape
        trie, device, nodes = self._trie, asked.device, len(self._trie.tokens)
        positions, _ = self.model.model.get_rope_index(**{k: v for k, v in inputs.items() if k != "pixel_values"})
        last = asked.sum(1) - 1  # (B,) of each prompt
        start = positions.amax(0).amax(1) + 1  # (B,) position of a first answer token
        node_positions = (start[:, None] + trie.depths.to(device)).expand(3, -1, -1)
        see = torch.zeros(batch, 1, width + nodes, width + nodes, dtype=torch.bool, device=device)
        see[:, 0, :width, :width] = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        see[:, 0, width:, :width] = asked[:, None]
        see[:, 0, width:, width:] = trie.ancestry.to(device)
        states = self.model.model(
            input_ids=torch.cat([inputs["input_ids"], trie.tokens.to(device).expand(batch, -1)], dim=1),
            attention_mask=torch.zeros_like(see, dtype=self.model.dtype).masked_fill(~see, -torch.inf),
            position_ids=torch.cat([positions, node_positions], dim=2),
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
            use_cache=False,
        ).last_hidden_state
        rows = torch.arange(batch, device=device)[:, None]
        states = states[
            rows, torch.cat([last[:, None], width + torch.arange(nodes, device=device).expand(batch, -1)], 1)
        ]
        log_probabilities = self.model.lm_head(states).float().log_softmax(-1)  # (B, 1 + M, vocabulary)
        of_nodes = log_probabilities[:, trie.parents, trie.tokens]  # (B, M), given the parent
        of_answers = (of_nodes[:, None] * trie.ancestry[trie.leaves].to(device)).sum(-1)  # not @: autocast would round
        return of_answers, states[:, torch.cat([torch.zeros(1, dtype=torch.long), 1 + trie.leaves])]

    def see(self, images: Sequence[np.ndarray]) -> list[Seen]:
        """Look at frames (H, W, 3) or pairs (2, H, W, 3), as `decide` takes them, once and for all; no gradient."""
        with torch.no_grad():
            vision = {name: value.to(self.model.device) for name, value in self._patches(images).items()}
            embeddings = self.model.model.get_image_features(**vision).pooler_output
        merged = (vision["image_grid_thw"][:, 1:] // self.parts.image_processor.merge_size).tolist()
        return [Seen(x, (rows, columns)) for x, (rows, columns) in zip(embeddings, merged, strict=True)]

    def answer_loss(
        self,
        images: Sequence[np.ndarray] | Sequence[Seen],
        navigations: Sequence[Navigation],
        speeds_mps: Sequence[float],
        answers: Sequence[str],
        sights: Sequence[Sequence[str]] | None = None,
        *,
        within: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None,
    ) -> torch.Tensor:
        """Mean negative log-likelihood of the answer tokens (Senna-2 eq. 2), a scalar; what training minimises.

        Args:
            images: B front frames (H, W, 3) or pairs (2, H, W, 3), uint8 RGB, as `decide` takes them; or what `see` has
                made of them: then only the language model gets a gradient.
            navigations: B.
            speeds_mps: B, m/s.
            answers: B, as `prompt.answer` writes them.
            sights: what each image token shows, one word for each of the (rows x columns, row-major) of `image_grid`.
                Adds the negative log-likelihood of these words given their image embeddings; rare words weigh more.
                A small model that starts from nothing learns to see by it.
            within: answers and sights of the whole batch that these frames are a part of. The result is then their
                share of its loss: the shares of all parts add up to it.
        """
        inputs = self._encode(images, navigations, speeds_mps, answers)
        labels = inputs.pop("labels")[:, 1:]
        if "pixel_values" in inputs:
            vision = self.model.model.get_image_features(inputs.pop("pixel_values"), inputs["image_grid_thw"])
        else:
            seen_before = [image.embeddings for image in images if isinstance(image, Seen)]
            vision = BaseModelOutputWithPooling(
                pooler_output=tuple(x.to(self.model.lm_head.weight) for x in seen_before)
            )
        states = self.model.model(**inputs, mm_encoder_outputs={"image": vision}, use_cache=False).last_hidden_state
        all_answers, all_sights = within or (answers, sights or ())
        surprise = self._surprise(states[:, :-1][labels >= 0], labels[labels >= 0])
        loss = surprise.sum() / sum(map(len, self._tokens(list(all_answers))))
        if sights is not None:
            counts = Counter(word for sight in all_sights for word in sight)
            known = {word: i for i, word in enumerate(sorted(counts))}
            index = torch.tensor([known[word] for sight in sights for word in sight], device=loss.device)
            tokens = torch.tensor([ids[-1] for ids in self._tokens([f" {w}" for w in known])], device=loss.device)
            weights = torch.tensor([counts[word] ** -0.5 for word in known], device=loss.device)[index]
            seen = self.model.model.language_model.norm(torch.cat(vision.pooler_output))
            total = sum(count**0.5 for count in counts.values())
            loss = loss + (weights * self._surprise(seen, tokens[index])).sum() / total
        return loss

    def image_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of image tokens that a frame of this size becomes."""
        merge = self.parts.image_processor.merge_size
        vision = self.parts.image_processor(images=[np.zeros((height, width, 3), np.uint8)], return_tensors="pt")
        _, rows, columns = (vision["image_grid_thw"][0] // merge).tolist()
        return rows, columns

    def _surprise(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood (N,) of tokens (N,) given final states (N, D)."""
        logits = self.model.lm_head(states).float()
        return torch.nn.functional.cross_entropy(logits, tokens, reduction="none")

    def explain(self, image: np.ndarray, navigation: Navigation, speed_mps: float, max_new_tokens: int = 40) -> str:
        """The answer as the model writes it, token by token, with its reason if it gives one. Slow: not for driving."""
        with torch.inference_mode():
            inputs = self._encode([image], [navigation], [speed_mps])
            tokens = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        return self.parts.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    def _encode(
        self,
        images: Sequence[np.ndarray] | Sequence[Seen],
        navigations: Sequence[Navigation],
        speeds_mps: Sequence[float],
        answers: Sequence[str] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Model inputs, right-padded; with answers also `labels`, -100 where nothing is to be learnt."""
        grids = [image.grid for image in images if isinstance(image, Seen)]
        merge = self.parts.image_processor.merge_size
        if grids:
            vision = {"image_grid_thw": torch.tensor([[1, merge * rows, merge * columns] for rows, columns in grids])}
        else:
            vision = self._patches([image for image in images if not isinstance(image, Seen)])
        counts = (vision["image_grid_thw"].prod(1) // merge**2).tolist()
        asked = self._tokens(list(map(prompt, navigations, speeds_mps, counts)))
        said = self._tokens(list(answers)) if answers is not None else [[] for _ in asked]
        width = max(len(a) + len(s) for a, s in zip(asked, said, strict=True))
        ids = torch.full((len(asked), width), self.parts.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, -100)
        for row, (a, s) in enumerate(zip(asked, said, strict=True)):
            end = len(a) + len(s)
            ids[row, :end] = torch.tensor(a + s)
            mask[row, :end] = 1
            labels[row, len(a) : end] = torch.tensor(s)
        result = {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == self._image_token).int(),  # without it positions silently become 1-D
            **vision,
        }
        if answers is not None:
            result["labels"] = labels
        return {name: tensor.to(self.model.device) for name, tensor in result.items()}

    def _patches(self, images: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """pixel_values (patches of all frames, colours x 2 x pixels) and image_grid_thw (B, 3)."""
        for image in images:
            pair = image.ndim == 4 and len(image) == 2
            if not (pair or image.ndim == 3) or image.shape[-1] != 3 or image.dtype != np.uint8:
                raise ValueError(
                    f"front frame: got {image.dtype} {image.shape}, wanted uint8 RGB, (H, W, 3) or a pair (2, H, W, 3)"
                )
        process = partial(self.parts.image_processor, return_tensors="pt", input_data_format="channels_last")
        vision = dict(process(images=[image if image.ndim == 3 else image[1] for image in images]))
        if any(image.ndim == 4 for image in images):
            earlier = process(images=[image if image.ndim == 3 else image[0] for image in images])["pixel_values"]
            frames = [
                x.unflatten(1, (3, self.parts.image_processor.temporal_patch_size, -1))
                for x in (earlier, vision["pixel_values"])
            ]
            vision["pixel_values"] = torch.cat([frames[0][:, :, :1], frames[1][:, :, 1:]], dim=2).flatten(1)
        return vision

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        return self.parts.tokenizer(texts, add_special_tokens=False).input_ids
