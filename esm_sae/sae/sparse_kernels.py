"""The parts of a sparse gradient that gather: compiled loops over rows or latents.

Shapes: n rows, D width, L latents, k kept. Each kernel works on the part of its output that it is
given and lets go of the interpreter's lock, so that threads share the work; each number is
computed by one thread in a fixed order, so their number changes no bit.
"""

import numpy as np

from esm_sae.compiled import compiled

_GROUP = 16
# Sums may be taken in the order of the vector unit; NaN and infinity keep their meaning.
_FAST = {"contract", "reassoc", "nsz"}


@compiled()
def select_largest(pre: np.ndarray, values: np.ndarray, latents: np.ndarray) -> None:
    """Find the k largest of each row that are above 0; of equal ones the first.

    Args:
        pre: (n, L) float32 pre-activations.
        values: (n, k) float32, written: what was found, by latent ascending, then zeros.
        latents: (n, k) int32, written: their latents.
    """
    n, latent_dim = pre.shape
    k = values.shape[1]
    groups = (latent_dim + _GROUP - 1) // _GROUP
    maxima = np.empty(groups, np.float32)
    scratch = np.empty(latent_dim, np.float32)
    found, found_at = np.empty(latent_dim, np.float32), np.empty(latent_dim, np.int32)
    for row in range(n):
        scores = pre[row]
        # The k-th largest of the groups' maxima is a bound that at least k entries reach, and
        # groups whose maximum is below it hold none of the k largest.
        for group in range(groups):
            first = group * _GROUP
            largest = scores[first]
            for place in range(first + 1, min(first + _GROUP, latent_dim)):
                largest = max(scores[place], largest)
            maxima[group] = largest
        bound = np.float32(0)
        if groups > k:
            scratch[:groups] = maxima
            bound = max(_nth_largest(scratch, groups, k), bound)
        count = 0
        for group in range(groups):
            if maxima[group] >= bound:
                first = group * _GROUP
                for place in range(first, min(first + _GROUP, latent_dim)):
                    if scores[place] >= bound and scores[place] > 0:
                        found[count], found_at[count] = scores[place], place
                        count += 1
        _write_largest(found, found_at, count, scratch, values[row], latents[row])


@compiled()
def _write_largest(
    found: np.ndarray,
    found_at: np.ndarray,
    count: int,
    scratch: np.ndarray,
    values: np.ndarray,
    latents: np.ndarray,
) -> None:
    k = len(values)
    threshold, equals = np.float32(0), 0
    if count > k:
        scratch[:count] = found[:count]
        threshold = _nth_largest(scratch, count, k)
        equals = k
        for entry in range(count):
            equals -= found[entry] > threshold
    kept = 0
    for entry in range(count):
        value = found[entry]
        if value > threshold or (value == threshold and equals > 0):
            equals -= value == threshold
            values[kept], latents[kept] = value, found_at[entry]
            kept += 1
    values[kept:] = 0
    latents[kept:] = 0


@compiled()
def _nth_largest(numbers: np.ndarray, count: int, n: int) -> np.float32:
    """Return the n-th largest of the first ``count`` numbers, which are reordered (quickselect)."""
    first, last, wanted = 0, count - 1, n - 1
    while first < last:
        pivot = numbers[(first + last) >> 1]
        left, right = first, last
        while left <= right:
            while numbers[left] > pivot:
                left += 1
            while numbers[right] < pivot:
                right -= 1
            if left <= right:
                numbers[left], numbers[right] = numbers[right], numbers[left]
                left += 1
                right -= 1
        if wanted <= right:
            last = right
        elif wanted >= left:
            first = left
        else:
            break
    return numbers[wanted]


@compiled(fastmath=_FAST)
def take_errors(
    rows: np.ndarray,
    values: np.ndarray,
    latents: np.ndarray,
    decoder: np.ndarray,
    errors: np.ndarray,
    along: np.ndarray,
    squared_errors: np.ndarray,
) -> None:
    """Reconstruct rows, and project what is missing of them on the decoder rows that were used.

    Args:
        rows: (n, D) float32, less the pre-bias.
        values: (n, k) activations, zeros last.
        latents: (n, k) their latents.
        decoder: (L, D).
        errors: (n, D), written: ``x - x_hat``.
        along: (n, k), written where the activation is above 0: error times decoder row.
        squared_errors: (n,), written: ``|x - x_hat|^2``.
    """
    n, width = rows.shape
    for row in range(n):
        error, fired = errors[row], _fired(values[row])
        error[:] = rows[row]
        # Four decoder rows at a time, so that the error is loaded and stored a quarter as often.
        whole = fired - fired % 4
        for slot in range(0, whole, 4):
            a, b = decoder[latents[row, slot]], decoder[latents[row, slot + 1]]
            c, d = decoder[latents[row, slot + 2]], decoder[latents[row, slot + 3]]
            for at in range(width):
                error[at] -= (
                    values[row, slot] * a[at]
                    + values[row, slot + 1] * b[at]
                    + values[row, slot + 2] * c[at]
                    + values[row, slot + 3] * d[at]
                )
        for slot in range(whole, fired):
            a = decoder[latents[row, slot]]
            for at in range(width):
                error[at] -= values[row, slot] * a[at]
        squared_errors[row] = _dot(error, error)
        for slot in range(fired):
            along[row, slot] = _dot(error, decoder[latents[row, slot]])


@compiled(fastmath=_FAST)
def _dot(one: np.ndarray, other: np.ndarray) -> np.float32:
    total = np.float32(0)
    for at in range(len(one)):
        total += one[at] * other[at]
    return total


@compiled()
def _fired(values: np.ndarray) -> int:
    count = 0
    while count < len(values) and values[count] > 0:
        count += 1
    return count


@compiled()
def order_by_latent(
    values: np.ndarray, latents: np.ndarray, starts: np.ndarray, entries: np.ndarray
) -> None:
    """Sort activations by latent, those of one latent by row (a counting sort).

    Args:
        values: (n, k) activations, zeros last.
        latents: (n, k) their latents.
        starts: (L + 1,) int64, written: where each latent's entries begin.
        entries: (n * k,) int64, written: ``row * k + slot`` of each activation above 0.
    """
    n, k = values.shape
    starts[:] = 0
    for row in range(n):
        for slot in range(_fired(values[row])):
            starts[latents[row, slot] + 1] += 1
    for latent in range(len(starts) - 1):
        starts[latent + 1] += starts[latent]
    free = starts.copy()
    for row in range(n):
        for slot in range(_fired(values[row])):
            latent = latents[row, slot]
            entries[free[latent]] = row * k + slot
            free[latent] += 1


@compiled(fastmath=_FAST)
def sum_gradients(
    rows: np.ndarray,
    errors: np.ndarray,
    values: np.ndarray,
    along: np.ndarray,
    starts: np.ndarray,
    entries: np.ndarray,
    factor: np.float32,
    first: int,
    encoder: np.ndarray,
    decoder: np.ndarray,
    latent_bias: np.ndarray,
) -> None:
    """Sum the gradients of latents ``first`` and the following over the rows they fired on.

    Args:
        rows: (n, D), less the pre-bias.
        errors: (n, D).
        values: (n, k) activations.
        along: (n, k) errors along the decoder rows.
        starts: (L + 1,), as ``order_by_latent`` gives them.
        entries: (n * k,), likewise.
        factor: derivative of the loss by ``|x - x_hat|^2`` times -2.
        first: the latent of the first row of the outputs.
        encoder: (m, D), written.
        decoder: (m, D), written.
        latent_bias: (m,), written.
    """
    k, width = values.shape[1], rows.shape[1]
    for latent in range(len(latent_bias)):
        of_encoder, of_decoder, of_bias = encoder[latent], decoder[latent], np.float32(0)
        of_encoder[:] = 0
        of_decoder[:] = 0
        start, end = starts[first + latent], starts[first + latent + 1]
        # Two rows at a time, so that the sums are loaded and stored half as often.
        whole = end - (end - start) % 2
        for place in range(start, whole, 2):
            one, two = entries[place] // k, entries[place + 1] // k
            slot, slot_two = entries[place] - one * k, entries[place + 1] - two * k
            value, value_two = factor * values[one, slot], factor * values[two, slot_two]
            slope, slope_two = factor * along[one, slot], factor * along[two, slot_two]
            for at in range(width):
                of_decoder[at] += value * errors[one, at] + value_two * errors[two, at]
                of_encoder[at] += slope * rows[one, at] + slope_two * rows[two, at]
            of_bias += slope + slope_two
        for place in range(whole, end):
            one = entries[place] // k
            slot = entries[place] - one * k
            value, slope = factor * values[one, slot], factor * along[one, slot]
            for at in range(width):
                of_decoder[at] += value * errors[one, at]
                of_encoder[at] += slope * rows[one, at]
            of_bias += slope
        latent_bias[latent] = of_bias


@compiled()
def keep_largest(activations: np.ndarray, count: int) -> None:
    """Set all but the ``count`` largest of each row to 0, of equal ones all but the first.

    Args:
        activations: (n, A), 0 or more, changed in place.
        count: how many are kept.
    """
    n, width = activations.shape
    scratch = np.empty(width, np.float32)
    for row in range(n):
        scores = activations[row]
        scratch[:] = scores
        threshold = _nth_largest(scratch, width, count)
        equals = count
        for place in range(width):
            equals -= scores[place] > threshold
        for place in range(width):
            if scores[place] == threshold and equals > 0:
                equals -= 1
            elif scores[place] <= threshold:
                scores[place] = 0
