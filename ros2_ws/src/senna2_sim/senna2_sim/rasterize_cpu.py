"""3D Gaussian splatting on CPU: project and cull, bin into 16x16 tiles, sort and blend each tile. Compiled by numba.

Semantics are those of gsplat 1.5 (classic mode): OpenCV axes (x right, y down, z forward), pixel centres at +0.5,
2D covariance + 0.3 px^2, alpha at most 0.999, alpha under 1/255 skipped, a pixel ends before its transmittance would
fall to 1e-4. Results do not depend on the number of threads: units of work are contiguous ranges, lists keep their
order, ties in depth go to the lower index. `render.py` is the front door and documents the arrays.

G groups, C cameras, N Gaussians, B blocks of at most BLOCK Gaussians, S splats (Gaussians that a camera sees).
"""

import math

import numpy as np
from numba import njit, prange

TILE = 16
BLOCK = 64
PLANE = TILE * TILE  # a tile's buffer holds planes of this size: transmittance, red, green, blue, depth

_FLAGS = {"nsz", "arcp", "contract", "afn", "reassoc"}  # no nnan, ninf: infinities stay defined
_serial = njit(cache=True, error_model="numpy", fastmath=_FLAGS)
_parallel = njit(cache=True, error_model="numpy", fastmath=_FLAGS, parallel=True)
_inline = njit(cache=True, error_model="numpy", fastmath=_FLAGS, inline="never")

F = np.float32
U = np.uint64  # an index that cannot be negative: without the wrap-around check a row becomes one SIMD operation
ZERO, HALF, ONE = F(0.0), F(0.5), F(1.0)
EPS_2D = F(0.3)
EXTENT = F(3.33)  # standard deviations at which opacity 1 falls under 1/255
MARGIN_PX = F(3.33 * math.sqrt(0.3) + 0.01)
ALPHA_MAX, ALPHA_MIN, T_MIN = F(0.999), F(1 / 255), F(1e-4)

# exp(x) on [-6, 0] as p(x / 8)^8, p of degree 5 (Chebyshev fit): relative error under 2e-6.
_fit = np.polynomial.Chebyshev.interpolate(np.exp, 5, domain=[-0.75, 0.0]).convert(kind=np.polynomial.Polynomial)
E0, E1, E2, E3, E4, E5 = (F(float(c) / 8.0**k) for k, c in enumerate(_fit.coef))
X_MIN = F(-6.0)


@_serial
def visible_blocks(blocks, bounds, enabled, lenses, views, near):
    """Pairs (camera, block) that may show, cameras in order, (V, 2) int32. The test never drops a visible Gaussian."""
    pairs = np.empty((len(lenses) * len(blocks), 2), np.int32)
    count = 0
    for c in range(len(lenses)):
        fx, fy = lenses[c, 0], lenses[c, 1]
        left, right = lenses[c, 4] + MARGIN_PX / fx, lenses[c, 5] + MARGIN_PX / fx
        top, bottom = lenses[c, 6] + MARGIN_PX / fy, lenses[c, 7] + MARGIN_PX / fy
        wide, high = lenses[c, 8], lenses[c, 9]
        for b in range(len(blocks)):
            g = blocks[b, 2]
            if not enabled[g]:
                continue
            m, r, s = views[c, g], bounds[b, 3], bounds[b, 4] * EXTENT
            x = m[0] * bounds[b, 0] + m[1] * bounds[b, 1] + m[2] * bounds[b, 2] + m[3]
            y = m[4] * bounds[b, 0] + m[5] * bounds[b, 1] + m[6] * bounds[b, 2] + m[7]
            z = m[8] * bounds[b, 0] + m[9] * bounds[b, 1] + m[10] * bounds[b, 2] + m[11]
            if z + r <= near:
                continue
            if x - right * z - r * math.sqrt(ONE + right * right) > s * wide:
                continue
            if -x - left * z - r * math.sqrt(ONE + left * left) > s * wide:
                continue
            if y - bottom * z - r * math.sqrt(ONE + bottom * bottom) > s * high:
                continue
            if -y - top * z - r * math.sqrt(ONE + top * top) > s * high:
                continue
            pairs[count, 0], pairs[count, 1] = c, b
            count += 1
    return pairs[:count]


@_inline
def _colour(sh, i, dx, dy, dz, channel):
    """max(SH + 0.5, 0) of Gaussian i seen along (dx, dy, dz), unit; sh (N, K * 3)."""
    size = sh.shape[1] // 3
    value = F(0.28209479177387814) * sh[i, channel] + HALF
    if size > 1:
        c = F(0.48860251190292) * (-dy * sh[i, 3 + channel] + dz * sh[i, 6 + channel] - dx * sh[i, 9 + channel])
        value += c
    if size > 4:
        xx, yy, zz = dx * dx, dy * dy, dz * dz
        value += F(1.092548430592079) * (dx * dy * sh[i, 12 + channel] - dy * dz * sh[i, 15 + channel])
        value += (F(0.9461746957575601) * zz - F(0.3153915652525201)) * sh[i, 18 + channel]
        value += F(-1.092548430592079) * dx * dz * sh[i, 21 + channel]
        value += F(0.5462742152960395) * (xx - yy) * sh[i, 24 + channel]
        if size > 9:
            value += F(-0.5900435899266435) * dy * (F(3.0) * xx - yy) * sh[i, 27 + channel]
            value += F(2.890611442640554) * dx * dy * dz * sh[i, 30 + channel]
            value += F(0.4570457994644658) * dy * (ONE - F(5.0) * zz) * sh[i, 33 + channel]
            value += F(0.3731763325901154) * dz * (F(5.0) * zz - F(3.0)) * sh[i, 36 + channel]
            value += F(0.4570457994644658) * dx * (ONE - F(5.0) * zz) * sh[i, 39 + channel]
            value += F(1.445305721320277) * dz * (xx - yy) * sh[i, 42 + channel]
            value += F(-0.5900435899266435) * dx * (xx - F(3.0) * yy) * sh[i, 45 + channel]
    return value if value > ZERO else ZERO


@_parallel
def project(
    pairs, units, blocks, geometry, sh, lenses, frames, views, centres, near, margin,
    splats, depths, boxes, owners, sizes, counts,
):  # fmt: skip
    """Write each unit's splats from slot `unit's first pair * BLOCK` on, and count them per tile.

    splats (S, 10) float32: x, y px, conic a, b, c, opacity, r, g, b, half height px; depths (S,) m;
    boxes (S, 4) int32: first tile, tiles across, tiles down, tiles per row of the camera; owners (S,) int32: the
    Gaussian; sizes (units,) splats written; counts (units, tiles) int32. Centres nearer than `near` or outside the
    image by more than `margin` half images are left out.
    """
    for unit in prange(units):
        counts[unit, :] = 0
        first, last = len(pairs) * unit // units, len(pairs) * (unit + 1) // units
        slot = first * BLOCK
        for pair in range(first, last):
            c, b = pairs[pair, 0], pairs[pair, 1]
            g = blocks[b, 2]
            m, eye = views[c, g], centres[c, g]
            fx, fy, cx, cy = lenses[c, 0], lenses[c, 1], lenses[c, 2], lenses[c, 3]
            left, right, top, bottom = lenses[c, 4], lenses[c, 5], lenses[c, 6], lenses[c, 7]
            wide, high = lenses[c, 8], lenses[c, 9]
            width, height, tiles_x, first_tile = frames[c, 0], frames[c, 1], frames[c, 2], frames[c, 3]
            r00, r01, r02, r10, r11, r12, r20, r21, r22 = m[0], m[1], m[2], m[4], m[5], m[6], m[8], m[9], m[10]
            slack_x, slack_y = F(0.3) * HALF * (left + right), F(0.3) * HALF * (top + bottom)
            outside_x, outside_y = margin * HALF * (left + right), margin * HALF * (top + bottom)
            for i in range(blocks[b, 0], blocks[b, 1]):
                geo = geometry[i]
                px, py, pz = geo[0], geo[1], geo[2]
                z = r20 * px + r21 * py + r22 * pz + m[11]
                if z <= near:
                    continue
                iz = ONE / z
                u = (r00 * px + r01 * py + r02 * pz + m[3]) * iz
                v = (r10 * px + r11 * py + r12 * pz + m[7]) * iz
                reach = geo[10] * geo[11] * iz  # extent * largest scale / depth
                if u > right + MARGIN_PX / fx + reach * wide or -u > left + MARGIN_PX / fx + reach * wide:
                    continue
                if v > bottom + MARGIN_PX / fy + reach * high or -v > top + MARGIN_PX / fy + reach * high:
                    continue
                if u > right + outside_x or -u > left + outside_x or v > bottom + outside_y or -v > top + outside_y:
                    continue
                uc = min(max(u, -left - slack_x), right + slack_x)
                vc = min(max(v, -top - slack_y), bottom + slack_y)
                jx, jy = fx * iz, fy * iz
                ax, ay, az = jx * (r00 - uc * r20), jx * (r01 - uc * r21), jx * (r02 - uc * r22)
                bx, by, bz = jy * (r10 - vc * r20), jy * (r11 - vc * r21), jy * (r12 - vc * r22)
                sxx, sxy, sxz, syy, syz, szz = geo[3], geo[4], geo[5], geo[6], geo[7], geo[8]
                tx, qx = sxx * ax + sxy * ay + sxz * az, sxx * bx + sxy * by + sxz * bz
                ty, qy = sxy * ax + syy * ay + syz * az, sxy * bx + syy * by + syz * bz
                tz, qz = sxz * ax + syz * ay + szz * az, sxz * bx + syz * by + szz * bz
                cov_xx = tx * ax + ty * ay + tz * az + EPS_2D
                cov_xy = tx * bx + ty * by + tz * bz
                cov_yy = qx * bx + qy * by + qz * bz + EPS_2D
                det = cov_xx * cov_yy - cov_xy * cov_xy
                if det <= ZERO:
                    continue
                x, y = fx * u + cx, fy * v + cy
                half_x, half_y = geo[10] * math.sqrt(cov_xx), geo[10] * math.sqrt(cov_yy)
                x_low, x_high = max(x - half_x - HALF, ZERO), min(x + half_x - HALF, F(width - 1))
                y_low, y_high = max(y - half_y - HALF, ZERO), min(y + half_y - HALF, F(height - 1))
                if x_high < ZERO or y_high < ZERO or x_low > x_high or y_low > y_high:
                    continue
                x0, x1 = int(math.ceil(x_low)), int(x_high)
                y0, y1 = int(math.ceil(y_low)), int(y_high)
                if x0 > x1 or y0 > y1:
                    continue
                x0, x1, y0, y1 = x0 // TILE, x1 // TILE, y0 // TILE, y1 // TILE
                dx, dy, dz = px - eye[0], py - eye[1], pz - eye[2]
                norm = ONE / math.sqrt(dx * dx + dy * dy + dz * dz)
                dx, dy, dz = dx * norm, dy * norm, dz * norm
                out = splats[slot]
                idet = ONE / det
                out[0], out[1] = x, y
                out[2], out[3], out[4] = cov_yy * idet, -cov_xy * idet, cov_xx * idet
                out[5], out[9] = geo[9], half_y
                out[6] = _colour(sh, i, dx, dy, dz, 0)
                out[7] = _colour(sh, i, dx, dy, dz, 1)
                out[8] = _colour(sh, i, dx, dy, dz, 2)
                depths[slot], owners[slot] = z, i
                boxes[slot, 0] = first_tile + y0 * tiles_x + x0
                boxes[slot, 1], boxes[slot, 2], boxes[slot, 3] = x1 - x0 + 1, y1 - y0 + 1, tiles_x
                for tile_y in range(y0, y1 + 1):
                    row = first_tile + tile_y * tiles_x
                    for tile_x in range(x0, x1 + 1):
                        counts[unit, row + tile_x] += 1
                slot += 1
        sizes[unit] = slot - first * BLOCK


@_serial
def tile_starts(counts):
    """Turn counts (units, tiles) into first positions of each unit in each tile's list; returns starts (tiles + 1,)."""
    units, tiles = counts.shape
    starts = np.empty(tiles + 1, np.int64)
    total = 0
    for tile in range(tiles):
        starts[tile] = total
        for unit in range(units):
            count = counts[unit, tile]
            counts[unit, tile] = total
            total += count
    starts[tiles] = total
    return starts


@_parallel
def scatter(n_pairs, depth_bits, boxes, sizes, cursors, keys):
    """Fill the tiles' lists: keys (total,) int64 = bits of the depth << 32 | splat. Order: splat index."""
    for unit in prange(len(sizes)):
        first = (n_pairs * unit // len(sizes)) * BLOCK
        for slot in range(first, first + sizes[unit]):
            key = (np.int64(depth_bits[slot]) << 32) | slot
            row = boxes[slot, 0]
            for _ in range(boxes[slot, 2]):
                for tile in range(row, row + boxes[slot, 1]):
                    keys[cursors[unit, tile]] = key
                    cursors[unit, tile] += 1
                row += boxes[slot, 3]


@_serial
def _sort_bucket(keys, first, last):
    if last - first > 48:
        keys[first:last].sort()
        return
    for i in range(first + 1, last):
        key, j = keys[i], i - 1
        while j >= first and keys[j] > key:
            keys[j + 1] = keys[j]
            j -= 1
        keys[j + 1] = key


@_serial
def _fill_buckets(keys, scratch, ends):
    """Distribute keys into scratch by depth; ends[b] is where bucket b ends. Returns the number of buckets."""
    n = len(keys)
    low = high = keys[0] >> 32
    for i in range(1, n):
        depth = keys[i] >> 32
        low, high = min(low, depth), max(high, depth)
    buckets = 1
    while buckets * 8 < n and buckets < len(ends) - 1:
        buckets *= 2
    scale = buckets / (high - low + 1.0)
    ends[: buckets + 1] = 0
    for i in range(n):
        ends[int(((keys[i] >> 32) - low) * scale) + 1] += 1
    for b in range(1, buckets + 1):
        ends[b] += ends[b - 1]
    for i in range(n):
        b = int(((keys[i] >> 32) - low) * scale)
        scratch[ends[b]] = keys[i]
        ends[b] += 1
    return buckets


@_serial
def _blend_splat(tile, splats, slot, depth, x_first, y_first, top, bottom):
    """Blend one splat into rows top..bottom of a tile's buffer; each is one SIMD operation. A finished pixel has T
    negated. (The row splats[slot], given as an argument, would be counted as a reference, atomically.)"""
    y, half_y = splats[slot, 1], splats[slot, 9]
    start = max(top, int(math.ceil(y - half_y - HALF)))
    stop = min(bottom, int(math.floor(y + half_y - HALF)) + 1)
    a, b, c = F(-0.5) * splats[slot, 2], -splats[slot, 3], F(-0.5) * splats[slot, 4]
    opacity, red, green, blue = splats[slot, 5], splats[slot, 6], splats[slot, 7], splats[slot, 8]
    offset = F(x_first) + HALF - splats[slot, 0]
    for row in range(start, stop):
        dy = F(row) + HALF - y
        linear, constant = b * dy, c * dy * dy
        base = U((row - y_first) * TILE)
        for k in range(TILE):
            dx = offset + F(k)
            power = max((a * dx + linear) * dx + constant, X_MIN)
            e = ((((E5 * power + E4) * power + E3) * power + E2) * power + E1) * power + E0
            e = e * e
            e = e * e
            alpha = min(opacity * (e * e), ALPHA_MAX)
            alpha = alpha if alpha >= ALPHA_MIN else ZERO
            i = base + U(k)
            before = tile[i]
            weight = alpha * max(before, ZERO)
            after = before - weight
            live = after > T_MIN
            weight = weight if live else ZERO
            tile[i] = after if live else -abs(before)
            tile[i + U(PLANE)] += weight * red
            tile[i + U(2 * PLANE)] += weight * green
            tile[i + U(3 * PLANE)] += weight * blue
            tile[i + U(4 * PLANE)] += weight * depth


@_serial
def _live_rows(tile, first, last):
    """Rows first..last of a tile's buffer without those at either end that have only finished pixels."""
    while first < last and not _any_positive(tile, first * TILE):
        first += 1
    while first < last and not _any_positive(tile, (last - 1) * TILE):
        last -= 1
    return first, last


@_serial
def _any_positive(values, first):
    """Whether any of TILE values is above 0."""
    total = ZERO
    for k in range(TILE):
        total += max(values[U(first) + U(k)], ZERO)
    return total > ZERO


@_serial
def _sky_row(sky, turn, u0, du, v, cells, weights):
    """Where a row of TILE pixels, from camera ray (u0, v, 1) on, looks into an octahedral map: cells and weights."""
    last = sky.shape[0] - 1
    scale = HALF * F(last)
    x0, y0, z0 = turn[1] * v + turn[2], turn[4] * v + turn[5], turn[7] * v + turn[8]
    for k in range(TILE):
        u = u0 + F(k) * du
        x, y, z = turn[0] * u + x0, turn[3] * u + y0, turn[6] * u + z0
        inverse = ONE / (abs(x) + abs(y) + abs(z))
        a, b = x * inverse, y * inverse
        folded_a, folded_b = ONE - abs(b), ONE - abs(a)
        folded_a = folded_a if a >= ZERO else -folded_a
        folded_b = folded_b if b >= ZERO else -folded_b
        a, b = a if z >= ZERO else folded_a, b if z >= ZERO else folded_b
        a, b = (a + ONE) * scale, (b + ONE) * scale
        i, j = min(np.int32(a), np.int32(last - 1)), min(np.int32(b), np.int32(last - 1))
        cells[k] = i * np.int32(last + 1) + j
        weights[k], weights[k + TILE] = a - F(i), b - F(j)


@_parallel
def blend(
    workers, order, starts, keys, used, splats, depths, tile_camera, frames, lenses, turns, sky,
    rgb, depth, alpha,
):  # fmt: skip
    """Sort and blend each tile, composite the sky, and write pixels.

    order (tiles,): tiles by falling count, dealt round-robin to the workers; keys (total,): a tile's list comes
    unsorted and leaves sorted as far as used (tiles,) int64 says, nothing was blended from its rest; turns (C, 9): map
    from camera rotation; sky (size, size, 3) octahedral, size 0 for none; rgb (P, 3), depth (P,), alpha (P,), with P
    pixels of all cameras.
    """
    flat_sky = sky.reshape(-1, 3)
    longest = 0
    for t in range(len(order)):
        longest = max(longest, starts[t + 1] - starts[t])
    for worker in prange(workers):
        tile = np.empty(5 * PLANE, np.float32)
        scratch = np.empty(longest, np.int64)
        ends = np.empty(513, np.int64)
        cells, weights = np.empty(TILE, np.int32), np.empty(2 * TILE, np.float32)
        for k in range(worker, len(order), workers):
            t = order[k]
            c = tile_camera[t]
            width, height, tiles_x, first_tile = frames[c, 0], frames[c, 1], frames[c, 2], frames[c, 3]
            first_pixel = frames[c, 4]
            x_first, y_first = (t - first_tile) % tiles_x * TILE, (t - first_tile) // tiles_x * TILE
            x_stop, y_stop = min(x_first + TILE, width), min(y_first + TILE, height)
            tile[:PLANE] = ONE
            tile[PLANE:] = ZERO
            used[t] = 0
            if starts[t + 1] > starts[t]:
                buckets = _fill_buckets(keys[starts[t] : starts[t + 1]], scratch, ends)
                first, top, bottom = 0, 0, y_stop - y_first
                for b in range(buckets):
                    last = ends[b]
                    _sort_bucket(scratch, first, last)
                    lowest, highest = y_first + top, y_first + bottom
                    for i in range(first, last):
                        slot = scratch[i] & 0xFFFFFFFF
                        _blend_splat(tile, splats, slot, depths[slot], x_first, y_first, lowest, highest)
                    if last > first:
                        top, bottom = _live_rows(tile, top, bottom)
                    first = used[t] = last
                    if top == bottom:
                        break
                keys[starts[t] : starts[t + 1]] = scratch[: starts[t + 1] - starts[t]]
            fx, fy, cx, cy = lenses[c, 0], lenses[c, 1], lenses[c, 2], lenses[c, 3]
            for y in range(y_first, y_stop):
                if len(sky) > 0:
                    u, v = (F(x_first) + HALF - cx) / fx, (F(y) + HALF - cy) / fy
                    _sky_row(sky, turns[c], u, ONE / fx, v, cells, weights)
                for k in range(x_stop - x_first):
                    i = (y - y_first) * TILE + k
                    p = first_pixel + y * width + x_first + k
                    rest = abs(tile[i])
                    alpha[p] = ONE - rest
                    depth[p] = tile[i + 4 * PLANE] / max(ONE - rest, F(1e-10))
                    for channel in range(3):
                        rgb[p, channel] = tile[i + (channel + 1) * PLANE]
                    if len(sky) > 0 and rest > F(2e-4):
                        cell, below = cells[k], cells[k] + sky.shape[0]
                        da, db = rest * weights[k], weights[k + TILE]
                        w00, w10 = (rest - da) * (ONE - db), da * (ONE - db)
                        w01, w11 = (rest - da) * db, da * db
                        for channel in range(3):
                            value = w00 * flat_sky[cell, channel] + w01 * flat_sky[cell + 1, channel]
                            value += w10 * flat_sky[below, channel] + w11 * flat_sky[below + 1, channel]
                            rgb[p, channel] += value


@_serial
def quantise(rgb, out):
    """Colours 0..1, (P, 3) float32, clipped and rounded into out (P, 3) uint8."""
    flat, target = rgb.reshape(-1), out.reshape(-1)
    for i in range(len(flat)):
        value = min(max(flat[i], ZERO), ONE)
        target[i] = np.uint8(value * F(255.0) + HALF)
