"""The 3B class at full size with random weights: it decides, LoRA attaches, a step trains (`pytest -m large`)."""

import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from senna2_core.actions import ALL_DECISIONS
from senna2_core.objects import Navigation
from senna2_vlm.config import FullVlmConfig, LoraSettings
from senna2_vlm.decide import DecisionModel
from senna2_vlm.model import _qwen_config, _small_tokenizer, attach_lora, build_full
from senna2_vlm.prompt import answer

NEEDED_GB, WEIGHTS_OF_3B = 12, 3_754_622_976
NAVIGATION = Navigation(command=1, text="turn left in 25 m", target_point=np.array([25.0, 9.0]), speed_limit_mps=13.9)
FRAME = np.random.default_rng(0).integers(0, 256, (180, 320, 3), dtype=np.uint8)


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def test_the_full_preset_has_as_many_weights_as_the_published_checkpoint():
    config = FullVlmConfig()
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(_qwen_config(config, _small_tokenizer(640), config.vocabulary))
    model.tie_weights()
    assert sum(weight.numel() for weight in model.parameters()) == WEIGHTS_OF_3B


@pytest.mark.large
@pytest.mark.timeout(3600)
def test_3b_decides_takes_lora_and_trains_a_step_in_bf16(request, capsys):
    if "large" not in request.config.option.markexpr:
        pytest.skip("7.5 GB of random weights and minutes of time; pytest -m large runs it")
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free_gb = int(memory["MemAvailable"].split()[0]) / 2**20
    if free_gb < NEEDED_GB:
        pytest.skip(f"{free_gb:.0f} GB of memory are free, the 3B model needs {NEEDED_GB}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parts = build_full(seed=0)
    parts.model.to(device)
    vlm = DecisionModel(parts)
    weights = sum(p.numel() for p in vlm.model.parameters())
    assert weights == WEIGHTS_OF_3B and {p.dtype for p in vlm.model.parameters()} == {torch.bfloat16}

    wall, cpu = time.perf_counter(), time.process_time()
    out = vlm.decide(FRAME, NAVIGATION, 8.0)
    prefill = time.perf_counter() - wall, time.process_time() - cpu
    assert out.hidden.shape == vlm.hidden_shape == (2, 2048) and np.isfinite(out.hidden).all()
    assert out.probabilities.sum() == pytest.approx(1, abs=1e-4)

    adapted = attach_lora(vlm.model)
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    rank, config = LoraSettings().rank, FullVlmConfig()
    kv = config.hidden // config.heads * config.kv_heads
    shapes = (
        [(config.hidden, config.hidden)] * 2 + [(config.hidden, kv)] * 2 + [(config.hidden, config.feed_forward)] * 3
    )
    assert sum(w.numel() for w in trained.values()) == config.layers * rank * sum(a + b for a, b in shapes)
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3, weight_decay=0.0)
    told = [FRAME], [NAVIGATION], [8.0], [answer(ALL_DECISIONS[6])]
    losses, wall, cpu = [], time.perf_counter(), time.process_time()
    for _ in range(2):
        loss = vlm.answer_loss(*told)
        losses.append(loss.item())
        if len(losses) == 2:
            break
        loss.backward()
        optimizer.step()
        step = time.perf_counter() - wall, time.process_time() - cpu
    assert losses[1] < losses[0]

    moved = sum(float(w.detach().abs().sum()) for name, w in trained.items() if "lora_B" in name)
    assert moved > 0
    with capsys.disabled():
        on_gpu = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GB on the GPU, " if device == "cuda" else ""
        print(
            f"\n3B, {device}, {torch.get_num_threads()} threads: decide {prefill[0]:.1f} s, {prefill[1]:.1f} s of CPU; "
            f"LoRA step {step[0]:.1f} s, {step[1]:.1f} s of CPU; {on_gpu}{peak_gb():.1f} GB of memory at the peak; "
            f"LoRA trains {sum(w.numel() for w in trained.values()) / 1e6:.1f} M of {weights / 1e9:.2f} G; "
            f"loss {losses[0]:.2f} -> {losses[1]:.2f}"
        )
