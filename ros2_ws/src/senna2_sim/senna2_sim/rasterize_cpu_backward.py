"""The backward pass of `rasterize_cpu`: from gradients of pixels to gradients of Gaussians. Compiled by numba.

Each tile is walked twice: front to back, which gives every splat's weights w_i = alpha_i T_i, then back to front. With
v_i = dL/drgb . rgb_i + dL/ddepth (z_i - depth) / alpha of splat i, S_i the sum of w_j v_j over all that lies behind it
and R_i the transmittance behind it, dL/dlog(alpha_i) = w_i (v_i - S_i / R_i). S and R are sums from the back, so that
behind an opaque splat both are small and exact (the total less the sum so far would lose 1 / (1 - alpha_i) there).
Each (tile, splat) pair owns one row of sums; a Gaussian adds up its rows in a fixed order: no atomics, and results do
not depend on the number of threads.

Derivatives are those of gsplat: none through the clamps (alpha 0.999, Jacobian, colour 0) where these are active, none
through thresholds. C cameras, N Gaussians, S splat slots, E pairs (tile, splat), P pixels of all cameras.
"""

import math

import numpy as np
from numba import prange

from senna2_sim.rasterize_cpu import (
    ALPHA_MAX,
    ALPHA_MIN,
    BLOCK,
    E0,
    E1,
    E2,
    E3,
    E4,
    E5,
    EPS_2D,
    EXTENT,
    HALF,
    ONE,
    PLANE,
    T_MIN,
    TILE,
    X_MIN,
    ZERO,
    F,
    U,
    _live_rows,
    _parallel,
    _serial,
)  # fmt: skip

SUMS = 10  # of one (tile, splat): dL/dpower times 1, dx, dy, dx^2, dx dy, dy^2; dL/d red, green, blue, depth
PLANES = 9  # of a tile's buffer: transmittance, S, dL/d red, green, blue, dL/dz, depth, column, y px


@_parallel
def prepare(units, means, quaternions, scales, opacities, blocks, geometry, bounds):
    """Fill geometry (N, 12) and bounds (B, 5) of `PackedGaussians` for blocks of consecutive Gaussians."""
    for unit in prange(units):
        for b in range(len(blocks) * unit // units, len(blocks) * (unit + 1) // units):
            first, last = blocks[b, 0], blocks[b, 1]
            low_x, low_y, low_z = means[first, 0], means[first, 1], means[first, 2]
            high_x, high_y, high_z = low_x, low_y, low_z
            widest = ZERO
            for i in range(first, last):
                x, y, z = means[i, 0], means[i, 1], means[i, 2]
                low_x, low_y, low_z = min(low_x, x), min(low_y, y), min(low_z, z)
                high_x, high_y, high_z = max(high_x, x), max(high_y, y), max(high_z, z)
                row = geometry[i]
                row[0], row[1], row[2] = x, y, z
                r = _rotation(quaternions[i])
                a, b2, c = float(scales[i, 0]) ** 2, float(scales[i, 1]) ** 2, float(scales[i, 2]) ** 2
                row[3] = a * r[0] * r[0] + b2 * r[1] * r[1] + c * r[2] * r[2]
                row[4] = a * r[0] * r[3] + b2 * r[1] * r[4] + c * r[2] * r[5]
                row[5] = a * r[0] * r[6] + b2 * r[1] * r[7] + c * r[2] * r[8]
                row[6] = a * r[3] * r[3] + b2 * r[4] * r[4] + c * r[5] * r[5]
                row[7] = a * r[3] * r[6] + b2 * r[4] * r[7] + c * r[5] * r[8]
                row[8] = a * r[6] * r[6] + b2 * r[7] * r[7] + c * r[8] * r[8]
                row[9] = opacities[i]
                row[10] = min(EXTENT, F(math.sqrt(2.0 * math.log(max(255.0 * float(opacities[i]), 1.0)))))
                row[11] = max(scales[i, 0], scales[i, 1], scales[i, 2])
                widest = max(widest, row[11])
            x, y, z = HALF * (low_x + high_x), HALF * (low_y + high_y), HALF * (low_z + high_z)
            radius = 0.0
            for i in range(first, last):
                dx, dy, dz = float(means[i, 0]) - x, float(means[i, 1]) - y, float(means[i, 2]) - z
                radius = max(radius, dx * dx + dy * dy + dz * dz)
            bounds[b, 0], bounds[b, 1], bounds[b, 2] = x, y, z
            bounds[b, 3], bounds[b, 4] = math.sqrt(radius) * 1.0001, widest


@_serial
def _rotation(quaternion):
    """Rows of the rotation matrix of a quaternion wxyz of any positive length, in float64."""
    w, x, y, z = float(quaternion[0]), float(quaternion[1]), float(quaternion[2]), float(quaternion[3])
    scale = 1.0 / math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * scale, x * scale, y * scale, z * scale
    return (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip


@_serial
def index_splats(pairs, written, boxes, owners, tile_camera, slots, rows):
    """Where things are: slots (C, N) int32 of each Gaussian's splat, -1: none; rows (S,) int64, first of its sums."""
    slots[:] = -1
    total = 0
    for unit in range(len(written)):
        first = (pairs * unit // len(written)) * BLOCK
        for slot in range(first, first + written[unit]):
            slots[tile_camera[boxes[slot, 0]], owners[slot]] = slot
            rows[slot] = total
            total += boxes[slot, 1] * boxes[slot, 2]


@_serial
def _rows(splats, slot, y_first, top, bottom):
    """Which of a tile's rows top..bottom a splat reaches: first, last + 1; equal when there are none."""
    y, half_y = splats[slot, 1], splats[slot, 9]
    start = max(top, int(math.ceil(y - half_y - HALF)) - y_first)
    stop = min(bottom, int(math.floor(y + half_y - HALF)) + 1 - y_first)
    return start, max(start, stop)


@_serial
def _weigh_splat(tile, splats, slot, x_first, start, stop, weights, begin):
    """Blend one splat's rows as `_blend_splat` did; weights: its part of each pixel, negative if clamped."""
    a, b, c = F(-0.5) * splats[slot, 2], -splats[slot, 3], F(-0.5) * splats[slot, 4]
    opacity, y = splats[slot, 5], splats[slot, 1]
    offset = F(x_first) + HALF - splats[slot, 0]
    first = U(start * TILE)
    for k in range((stop - start) * TILE):
        i = first + U(k)
        dx, dy = offset + tile[i + U(7 * PLANE)], tile[i + U(8 * PLANE)] - y
        power = max((a * dx + b * dy) * dx + c * dy * dy, X_MIN)
        e = ((((E5 * power + E4) * power + E3) * power + E2) * power + E1) * power + E0
        e = e * e
        e = e * e
        raw = opacity * (e * e)
        alpha = min(raw, ALPHA_MAX)
        alpha = alpha if alpha >= ALPHA_MIN else ZERO
        before = tile[i]
        weight = alpha * max(before, ZERO)
        after = before - weight
        live = after > T_MIN
        weight = weight if live else ZERO
        tile[i] = after if live else -abs(before)
        weights[U(begin) + U(k)] = weight if raw <= ALPHA_MAX else -weight


@_serial
def _sum_splat(tile, splats, slot, depth, x_first, start, stop, weights, begin, sums, row):
    """Take one splat off a tile's buffer, the last one first, and write its SUMS: one SIMD loop."""
    red, green, blue, y = splats[slot, 6], splats[slot, 7], splats[slot, 8], splats[slot, 1]
    offset = F(x_first) + HALF - splats[slot, 0]
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = ZERO
    first = U(start * TILE)
    for k in range((stop - start) * TILE):
        i = first + U(k)
        dx, dy = offset + tile[i + U(7 * PLANE)], tile[i + U(8 * PLANE)] - y
        signed = weights[U(begin) + U(k)]
        weight = abs(signed)
        behind, rest = tile[i + U(PLANE)], tile[i]
        g_red, g_green, g_blue = tile[i + U(2 * PLANE)], tile[i + U(3 * PLANE)], tile[i + U(4 * PLANE)]
        g_depth = tile[i + U(5 * PLANE)]
        value = g_red * red + g_green * green + g_blue * blue + g_depth * (depth - tile[i + U(6 * PLANE)])
        slope = max(signed, ZERO) * (value - behind / rest)
        tile[i], tile[i + U(PLANE)] = rest + weight, behind + weight * value
        slope_x, slope_y = slope * dx, slope * dy
        s0 += slope
        s1 += slope_x
        s2 += slope_y
        s3 += slope_x * dx
        s4 += slope_x * dy
        s5 += slope_y * dy
        s6 += weight * g_red
        s7 += weight * g_green
        s8 += weight * g_blue
        s9 += weight * g_depth
    sums[row, 0], sums[row, 1], sums[row, 2], sums[row, 3], sums[row, 4] = s0, s1, s2, s3, s4
    sums[row, 5], sums[row, 6], sums[row, 7], sums[row, 8], sums[row, 9] = s5, s6, s7, s8, s9


@_serial
def _any_weight(weights, first):
    """Whether any of TILE weights is not 0."""
    total = ZERO
    for k in range(TILE):
        total += abs(weights[U(first) + U(k)])
    return total > ZERO


@_parallel
def sum_tiles(
    workers, order, starts, keys, used, splats, depths, boxes, rows, tile_camera, frames,
    depth, alpha, d_rgb, d_depth, d_alpha, sums,
):  # fmt: skip
    """Write every row of sums (E, SUMS) float32.

    depth, alpha, d_depth, d_alpha (P,), d_rgb (P, 3): pixels as `blend` wrote them without a sky, and dL/d of each.
    """
    for worker in prange(workers):
        tile = np.empty(PLANES * PLANE, np.float32)
        spans, weights = np.empty((64, 3), np.int64), np.empty(64 * PLANE, np.float32)
        for i in range(PLANE):
            tile[i + 7 * PLANE] = i % TILE
        for k in range(worker, len(order), workers):
            t = order[k]
            if starts[t + 1] == starts[t]:
                continue
            c = tile_camera[t]
            width, height, tiles_x, first_tile = frames[c, 0], frames[c, 1], frames[c, 2], frames[c, 3]
            x_first, y_first = (t - first_tile) % tiles_x * TILE, (t - first_tile) // tiles_x * TILE
            x_stop, y_stop = min(x_first + TILE, width), min(y_first + TILE, height)
            tile[:PLANE] = ONE
            tile[PLANE : 7 * PLANE] = ZERO
            for i in range(PLANE):
                tile[i + 8 * PLANE] = F(y_first + i // TILE) + HALF
            count = used[t]
            if count > len(spans):
                spans, weights = np.empty((2 * count, 3), np.int64), np.empty(2 * count * PLANE, np.float32)
            end, top, bottom = 0, 0, y_stop - y_first
            for j in range(count):
                slot = keys[starts[t] + j] & 0xFFFFFFFF
                start, stop = _rows(splats, slot, y_first, top, bottom)
                _weigh_splat(tile, splats, slot, x_first, start, stop, weights, end)
                while start < stop and not _any_weight(weights, end + (stop - start - 1) * TILE):
                    stop -= 1
                spans[j, 0], spans[j, 1], spans[j, 2] = start, stop, end
                end += (stop - start) * TILE
                if j % 8 == 7:
                    top, bottom = _live_rows(tile, top, bottom)
            for i in range(PLANE):
                tile[i] = abs(tile[i])
            for y in range(y_first, y_stop):
                for x in range(x_first, x_stop):
                    p = frames[c, 4] + y * width + x
                    i = (y - y_first) * TILE + x - x_first
                    tile[i + PLANE] = -d_alpha[p] * tile[i]
                    for channel in range(3):
                        tile[i + (2 + channel) * PLANE] = d_rgb[p, channel]
                    tile[i + 5 * PLANE] = d_depth[p] / max(alpha[p], F(1e-10))
                    tile[i + 6 * PLANE] = depth[p]
            for j in range(starts[t + 1] - starts[t] - 1, -1, -1):
                slot = keys[starts[t] + j] & 0xFFFFFFFF
                step = t - boxes[slot, 0]
                row = rows[slot] + step // boxes[slot, 3] * boxes[slot, 1] + step % boxes[slot, 3]
                if j >= count or spans[j, 0] == spans[j, 1]:
                    for column in range(SUMS):
                        sums[row, column] = ZERO
                    continue
                start, stop, end = spans[j, 0], spans[j, 1], spans[j, 2]
                while not _any_weight(weights, end):
                    start, end = start + 1, end + TILE
                _sum_splat(tile, splats, slot, depths[slot], x_first, start, stop, weights, end, sums, row)


@_serial
def _harmonics(x, y, z, size, basis):
    """Values and derivatives along x, y, z of the real spherical harmonics into basis (16, 4) float64."""
    basis[:size] = 0.0
    basis[0, 0] = 0.28209479177387814
    if size > 1:
        c = 0.48860251190292
        basis[1, 0], basis[1, 2] = -c * y, -c
        basis[2, 0], basis[2, 3] = c * z, c
        basis[3, 0], basis[3, 1] = -c * x, -c
    if size > 4:
        a, b, c = 1.092548430592079, 0.9461746957575601, 0.5462742152960396
        basis[4, 0], basis[4, 1], basis[4, 2] = a * x * y, a * y, a * x
        basis[5, 0], basis[5, 2], basis[5, 3] = -a * y * z, -a * z, -a * y
        basis[6, 0], basis[6, 3] = b * z * z - 0.3153915652525201, 2 * b * z
        basis[7, 0], basis[7, 1], basis[7, 3] = -a * x * z, -a * z, -a * x
        basis[8, 0], basis[8, 1], basis[8, 2] = c * (x * x - y * y), 2 * c * x, -2 * c * y
    if size > 9:
        a, b, c, d, e = 0.5900435899266435, 2.890611442640554, 0.4570457994644658, 0.3731763325901154, 1.445305721320277
        xx, yy, zz = x * x, y * y, z * z
        basis[9, 0], basis[9, 1], basis[9, 2] = -a * y * (3 * xx - yy), -6 * a * x * y, -3 * a * (xx - yy)
        basis[10, 0], basis[10, 1], basis[10, 2], basis[10, 3] = b * x * y * z, b * y * z, b * x * z, b * x * y
        basis[11, 0], basis[11, 2], basis[11, 3] = c * y * (1 - 5 * zz), c * (1 - 5 * zz), -10 * c * y * z
        basis[12, 0], basis[12, 3] = d * z * (5 * zz - 3), d * (15 * zz - 3)
        basis[13, 0], basis[13, 1], basis[13, 3] = c * x * (1 - 5 * zz), c * (1 - 5 * zz), -10 * c * x * z
        basis[14, 0], basis[14, 1], basis[14, 2] = e * z * (xx - yy), 2 * e * x * z, -2 * e * y * z
        basis[14, 3] = e * (xx - yy)
        basis[15, 0], basis[15, 1], basis[15, 2] = -a * x * (xx - 3 * yy), -3 * a * (xx - yy), 6 * a * x * y


@_serial
def _cut_normalisation(quaternion, r, m, out):
    """dL/dq, (4,) into out, from m = dL/d(rotation matrix), row by row; r as from `_rotation`."""
    w, x, y, z = float(quaternion[0]), float(quaternion[1]), float(quaternion[2]), float(quaternion[3])
    scale = 1.0 / math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * scale, x * scale, y * scale, z * scale
    dw = 2 * (x * (m[7] - m[5]) + y * (m[2] - m[6]) + z * (m[3] - m[1]))
    dx = 2 * (y * (m[1] + m[3]) + z * (m[2] + m[6]) + w * (m[7] - m[5])) - 4 * x * (m[4] + m[8])
    dy = 2 * (x * (m[1] + m[3]) + z * (m[5] + m[7]) + w * (m[2] - m[6])) - 4 * y * (m[0] + m[8])
    dz = 2 * (x * (m[2] + m[6]) + y * (m[5] + m[7]) + w * (m[3] - m[1])) - 4 * z * (m[0] + m[4])
    along = w * dw + x * dx + y * dy + z * dz
    out[0], out[1] = (dw - along * w) * scale, (dx - along * x) * scale
    out[2], out[3] = (dy - along * y) * scale, (dz - along * z) * scale


@_parallel
def gather(
    units, slots, rows, boxes, sums, splats, frames, lenses, views, centres, means, quaternions, scales, opacities, sh,
    d_means, d_quaternions, d_scales, d_opacities, d_sh, screen,
):  # fmt: skip
    """Carry each Gaussian's sums back through projection, covariance and colour; cameras in order, all in float64.

    Writes dL/d of means (N, 3), quaternions (N, 4), scales (N, 3), opacities (N,), sh (N, K * 3), float32, zero where
    no camera sees the Gaussian; screen (N, 2) float32: length of dL/d(centre) summed over cameras, in half images as
    gsplat's strategy wants it, and the number of cameras that see it.
    """
    size = sh.shape[1] // 3
    for unit in prange(units):
        basis = np.empty((16, 4))
        spread, turn = np.empty(9), np.empty(9)
        for i in range(len(means) * unit // units, len(means) * (unit + 1) // units):
            screen[i, 0] = screen[i, 1] = ZERO
            d_sh[i, :] = ZERO
            mean_x = mean_y = mean_z = d_opacity = 0.0
            spread[:] = 0.0
            seen = 0
            r = _rotation(quaternions[i])
            a, b, c = float(scales[i, 0]) ** 2, float(scales[i, 1]) ** 2, float(scales[i, 2]) ** 2
            sxx = a * r[0] * r[0] + b * r[1] * r[1] + c * r[2] * r[2]
            sxy = a * r[0] * r[3] + b * r[1] * r[4] + c * r[2] * r[5]
            sxz = a * r[0] * r[6] + b * r[1] * r[7] + c * r[2] * r[8]
            syy = a * r[3] * r[3] + b * r[4] * r[4] + c * r[5] * r[5]
            syz = a * r[3] * r[6] + b * r[4] * r[7] + c * r[5] * r[8]
            szz = a * r[6] * r[6] + b * r[7] * r[7] + c * r[8] * r[8]
            px, py, pz = float(means[i, 0]), float(means[i, 1]), float(means[i, 2])
            for camera in range(len(slots)):
                slot = slots[camera, i]
                if slot < 0:
                    continue
                seen += 1
                m0 = mx = my = mxx = mxy = myy = red = green = blue = d_z = 0.0
                for row in range(rows[slot], rows[slot] + boxes[slot, 1] * boxes[slot, 2]):
                    m0, mx, my = m0 + sums[row, 0], mx + sums[row, 1], my + sums[row, 2]
                    mxx, mxy, myy = mxx + sums[row, 3], mxy + sums[row, 4], myy + sums[row, 5]
                    red, green, blue = red + sums[row, 6], green + sums[row, 7], blue + sums[row, 8]
                    d_z += sums[row, 9]
                m = views[camera, 0]
                fx, fy = float(lenses[camera, 0]), float(lenses[camera, 1])
                left, right = float(lenses[camera, 4]), float(lenses[camera, 5])
                top, bottom = float(lenses[camera, 6]), float(lenses[camera, 7])
                r00, r01, r02, r10, r11, r12 = m[0], m[1], m[2], m[4], m[5], m[6]
                r20, r21, r22 = m[8], m[9], m[10]
                iz = 1.0 / (r20 * px + r21 * py + r22 * pz + m[11])
                u = (r00 * px + r01 * py + r02 * pz + m[3]) * iz
                v = (r10 * px + r11 * py + r12 * pz + m[7]) * iz
                slack_x, slack_y = 0.15 * (left + right), 0.15 * (top + bottom)
                uc, vc = min(max(u, -left - slack_x), right + slack_x), min(max(v, -top - slack_y), bottom + slack_y)
                ex, ey, ez = r00 - uc * r20, r01 - uc * r21, r02 - uc * r22
                hx, hy, hz = r10 - vc * r20, r11 - vc * r21, r12 - vc * r22
                jx, jy = fx * iz, fy * iz
                ax, ay, az, bx, by, bz = jx * ex, jx * ey, jx * ez, jy * hx, jy * hy, jy * hz
                tx, qx = sxx * ax + sxy * ay + sxz * az, sxx * bx + sxy * by + sxz * bz
                ty, qy = sxy * ax + syy * ay + syz * az, sxy * bx + syy * by + syz * bz
                tz, qz = sxz * ax + syz * ay + szz * az, sxz * bx + syz * by + szz * bz
                cov_xx, cov_yy = tx * ax + ty * ay + tz * az + EPS_2D, qx * bx + qy * by + qz * bz + EPS_2D
                cov_xy = tx * bx + ty * by + tz * bz
                idet = 1.0 / (cov_xx * cov_yy - cov_xy * cov_xy)
                ka, kb, kc = cov_yy * idet, -cov_xy * idet, cov_xx * idet
                d_opacity += m0 / float(opacities[i])
                d_x, d_y = ka * mx + kb * my, kb * mx + kc * my
                wide, high = 0.5 * len(slots) * frames[camera, 0] * d_x, 0.5 * len(slots) * frames[camera, 1] * d_y
                screen[i, 0] += math.sqrt(wide * wide + high * high)
                # dL/d(covariance) = -K (dL/dK) K with dL/dK = -1/2 [[mxx, mxy], [mxy, myy]]
                p, q = ka * mxx + kb * mxy, ka * mxy + kb * myy
                s, t = kb * mxx + kc * mxy, kb * mxy + kc * myy
                gxx, gxy, gyy = 0.5 * (p * ka + q * kb), p * kb + q * kc, 0.5 * (s * kb + t * kc)
                dax, day, daz = 2 * gxx * tx + gxy * qx, 2 * gxx * ty + gxy * qy, 2 * gxx * tz + gxy * qz
                dbx, dby, dbz = 2 * gyy * qx + gxy * tx, 2 * gyy * qy + gxy * ty, 2 * gyy * qz + gxy * tz
                spread[0] += gxx * ax * ax + gyy * bx * bx + gxy * ax * bx
                spread[4] += gxx * ay * ay + gyy * by * by + gxy * ay * by
                spread[8] += gxx * az * az + gyy * bz * bz + gxy * az * bz
                spread[1] += gxx * ax * ay + gyy * bx * by + 0.5 * gxy * (ax * by + ay * bx)
                spread[2] += gxx * ax * az + gyy * bx * bz + 0.5 * gxy * (ax * bz + az * bx)
                spread[5] += gxx * ay * az + gyy * by * bz + 0.5 * gxy * (ay * bz + az * by)
                d_iz = fx * (dax * ex + day * ey + daz * ez) + fy * (dbx * hx + dby * hy + dbz * hz)
                d_u, d_v = fx * d_x, fy * d_y
                if -left - slack_x <= u <= right + slack_x:
                    d_u -= jx * (dax * r20 + day * r21 + daz * r22)
                if -top - slack_y <= v <= bottom + slack_y:
                    d_v -= jy * (dbx * r20 + dby * r21 + dbz * r22)
                cam_x, cam_y = d_u * iz, d_v * iz
                cam_z = d_z - iz * (d_u * u + d_v * v + iz * d_iz)
                mean_x += r00 * cam_x + r10 * cam_y + r20 * cam_z
                mean_y += r01 * cam_x + r11 * cam_y + r21 * cam_z
                mean_z += r02 * cam_x + r12 * cam_y + r22 * cam_z
                red = red if splats[slot, 6] > ZERO else 0.0
                green = green if splats[slot, 7] > ZERO else 0.0
                blue = blue if splats[slot, 8] > ZERO else 0.0
                eye = centres[camera, 0]
                dx, dy, dz = px - eye[0], py - eye[1], pz - eye[2]
                norm = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
                dx, dy, dz = dx * norm, dy * norm, dz * norm
                _harmonics(dx, dy, dz, size, basis)
                look_x = look_y = look_z = 0.0
                for k in range(size):
                    d_sh[i, 3 * k] += red * basis[k, 0]
                    d_sh[i, 3 * k + 1] += green * basis[k, 0]
                    d_sh[i, 3 * k + 2] += blue * basis[k, 0]
                    value = red * sh[i, 3 * k] + green * sh[i, 3 * k + 1] + blue * sh[i, 3 * k + 2]
                    look_x, look_y = look_x + value * basis[k, 1], look_y + value * basis[k, 2]
                    look_z += value * basis[k, 3]
                along = look_x * dx + look_y * dy + look_z * dz
                mean_x += (look_x - along * dx) * norm
                mean_y += (look_y - along * dy) * norm
                mean_z += (look_z - along * dz) * norm
            screen[i, 1] = seen
            d_means[i, 0], d_means[i, 1], d_means[i, 2] = mean_x, mean_y, mean_z
            d_opacities[i] = d_opacity
            spread[3], spread[6], spread[7] = spread[1], spread[2], spread[5]
            # covariance = H H^T with H = rotation * scales, so dL/dH = 2 dL/d(covariance) H
            for k in range(3):
                scale = float(scales[i, k])
                x = 2 * (spread[0] * r[k] + spread[1] * r[3 + k] + spread[2] * r[6 + k])
                y = 2 * (spread[3] * r[k] + spread[4] * r[3 + k] + spread[5] * r[6 + k])
                z = 2 * (spread[6] * r[k] + spread[7] * r[3 + k] + spread[8] * r[6 + k])
                d_scales[i, k] = scale * (x * r[k] + y * r[3 + k] + z * r[6 + k])
                turn[k], turn[3 + k], turn[6 + k] = scale * scale * x, scale * scale * y, scale * scale * z
            _cut_normalisation(quaternions[i], r, turn, d_quaternions[i])
