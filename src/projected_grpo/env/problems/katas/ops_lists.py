"""Operations on lists of integers."""

from projected_grpo.env.problems.katas.ops import op

LISTS = (
    # From a list to a list.
    op(
        "keep_even",
        "L>L",
        "keep only the even numbers|drop every odd number",
        "[x for x in {i} if x % 2 == 0]",
        "[x for j, x in enumerate({i}) if j % 2 == 0]",
    ),
    op(
        "keep_odd",
        "L>L",
        "keep only the odd numbers|drop every even number",
        "[x for x in {i} if x % 2 == 1]",
        "[x for j, x in enumerate({i}) if j % 2 == 1]",
    ),
    op(
        "keep_multiples",
        "L>L",
        "keep only the multiples of {k}|drop every number that is not divisible by {k}",
        "[x for x in {i} if x % {k} == 0]",
        "[x for x in {i} if x % {k} == 0 and x > 0]",
        k=(3, 4, 5),
    ),
    op(
        "keep_greater",
        "L>L",
        "keep only the numbers greater than {k}|drop every number that is {k} or less",
        "[x for x in {i} if x > {k}]",
        "[x for x in {i} if x >= {k}]",
        k=(1, 2, 3, 4, 5),
    ),
    op(
        "keep_smaller",
        "L>L",
        "keep only the numbers smaller than {k}|drop every number that is {k} or more",
        "[x for x in {i} if x < {k}]",
        "[x for x in {i} if x <= {k}]",
        k=(4, 5, 6, 7),
    ),
    op(
        "keep_positive",
        "L>L",
        "keep only the positive numbers|drop every number below 1",
        "[x for x in {i} if x > 0]",
        "[x for x in {i} if x >= 0]",
    ),
    op(
        "keep_between",
        "L>L",
        "keep only the numbers from {lo} to {hi}, both included|"
        "drop every number below {lo} or above {hi}",
        "[x for x in {i} if {lo} <= x <= {hi}]",
        "[x for x in {i} if {lo} < x < {hi}]",
        lo=(-2, 0, 1),
        hi=(5, 6, 8),
    ),
    op(
        "keep_above_mean",
        "L>L",
        "keep only the numbers greater than the average of the list",
        "[x for x in {i} if x * len({i}) > sum({i})]",
        "[x for x in {i} if 2 * x > max({i}) + min({i})]",
    ),
    op(
        "keep_repeated",
        "L>L",
        "keep only the numbers that occur more than once in the list",
        "[x for x in {i} if {i}.count(x) > 1]",
        "[x for x in set({i}) if {i}.count(x) > 1]",
    ),
    op(
        "keep_single",
        "L>L",
        "keep only the numbers that occur exactly once in the list",
        "[x for x in {i} if {i}.count(x) == 1]",
        "list(dict.fromkeys({i}))",
    ),
    op(
        "keep_peaks",
        "L>L",
        "keep only the numbers greater than both neighbours (the first and the last never count)",
        "[{i}[j] for j in range(1, len({i}) - 1) if {i}[j - 1] < {i}[j] > {i}[j + 1]]",
        "[{i}[j] for j in range(1, len({i})) if {i}[j - 1] < {i}[j]]",
    ),
    op(
        "square",
        "L>L",
        "square every number|replace every number by its square",
        "[x * x for x in {i}]",
        "[x * 2 for x in {i}]",
    ),
    op(
        "scale",
        "L>L",
        "multiply every number by {k}",
        "[x * {k} for x in {i}]",
        "[x + {k} for x in {i}]",
        k=(2, 3, 4),
    ),
    op(
        "add",
        "L>L",
        "add {k} to every number|increase every number by {k}",
        "[x + {k} for x in {i}]",
        "[x - {k} for x in {i}]",
        k=(1, 2, 3, 5),
    ),
    op(
        "negate",
        "L>L",
        "negate every number|flip the sign of every number",
        "[-x for x in {i}]",
        "[-abs(x) for x in {i}]",
    ),
    op(
        "absolute",
        "L>L",
        "replace every number by its absolute value|drop the sign of every number",
        "[abs(x) for x in {i}]",
        "[x for x in {i} if x >= 0]",
    ),
    op(
        "floor_negatives",
        "L>L",
        "replace every negative number by 0",
        "[max(x, 0) for x in {i}]",
        "[x for x in {i} if x >= 0]",
    ),
    op(
        "clamp",
        "L>L",
        "limit every number to the range {lo} to {hi}|"
        "raise numbers below {lo} to {lo} and lower numbers above {hi} to {hi}",
        "[min(max(x, {lo}), {hi}) for x in {i}]",
        "[x for x in {i} if {lo} <= x <= {hi}]",
        lo=(-3, -1, 0),
        hi=(4, 5, 7),
    ),
    op(
        "times_position",
        "L>L",
        "multiply every number by its position, counting from 0",
        "[j * x for j, x in enumerate({i})]",
        "[j * x for j, x in enumerate({i}, 1)]",
    ),
    op(
        "digit_sums",
        "L>L",
        "replace every number by the sum of its digits (ignore the sign)",
        "[sum(int(c) for c in str(abs(x))) for x in {i}]",
        "[abs(x) % 9 for x in {i}]",
    ),
    op(
        "sort_up",
        "L>L",
        "sort {it} in increasing order|put the numbers in increasing order",
        "sorted({i})",
        "sorted(set({i}))",
    ),
    op(
        "sort_down",
        "L>L",
        "sort {it} in decreasing order|order the numbers from largest to smallest",
        "sorted({i}, reverse=True)",
        "sorted({i}, key=abs, reverse=True)",
    ),
    op(
        "sort_by_size",
        "L>L",
        "sort {it} by absolute value, with ties in their old order",
        "sorted({i}, key=abs)",
        "sorted(abs(x) for x in {i})",
    ),
    op(
        "reverse", "L>L", "reverse {it}|reverse the order of the numbers", "{i}[::-1]", "{i}[:0:-1]"
    ),
    op(
        "unique",
        "L>L",
        "keep only the first occurrence of every number|remove repeated numbers, keeping the first",
        "list(dict.fromkeys({i}))",
        "sorted(set({i}))",
    ),
    op(
        "squeeze",
        "L>L",
        "collapse every run of equal adjacent numbers into one",
        "[x for j, x in enumerate({i}) if j == 0 or {i}[j - 1] != x]",
        "list(dict.fromkeys({i}))",
    ),
    op(
        "running_sum",
        "L>L",
        "replace every number by the sum of all numbers up to and including it",
        """
{o} = []
total = 0
for x in {i}:
    total += x
    {o}.append(total)
""",
        """
{o} = []
total = 0
for x in {i}:
    {o}.append(total)
    total += x
""",
    ),
    op(
        "running_max",
        "L>L",
        "replace every number by the largest number up to and including it",
        """
{o} = []
for x in {i}:
    {o}.append(x if not {o} else max({o}[-1], x))
""",
        """
{o} = []
best = 0
for x in {i}:
    best = max(best, x)
    {o}.append(best)
""",
    ),
    op(
        "differences",
        "L>L",
        "replace {it} by the differences between every number and the one before it",
        "[y - x for x, y in zip({i}, {i}[1:])]",
        "[x - y for x, y in zip({i}, {i}[1:])]",
    ),
    op(
        "pair_sums",
        "L>L",
        "replace {it} by the sums of adjacent numbers",
        "[x + y for x, y in zip({i}, {i}[1:])]",
        "[x + y for x, y in zip({i}[::2], {i}[1::2])]",
    ),
    op(
        "even_positions",
        "L>L",
        "keep only the numbers at even positions, counting from 0",
        "{i}[::2]",
        "{i}[1::2]",
    ),
    op(
        "drop_first", "L>L", "drop the first {k} numbers", "{i}[{k}:]", "{i}[{k} + 1:]", k=(1, 2, 3)
    ),
    op(
        "drop_last",
        "L>L",
        "drop the last {k} numbers",
        "{i}[:max(len({i}) - {k}, 0)]",
        "{i}[:-{k} - 1]",
        k=(1, 2, 3),
    ),
    op(
        "take_first",
        "L>L",
        "keep only the first {k} numbers",
        "{i}[:{k}]",
        "{i}[:{k} + 1]",
        k=(2, 3, 4),
    ),
    op(
        "rotate_left",
        "L>L",
        "rotate {it} to the left by {k}",
        "{i}[{k} % max(len({i}), 1):] + {i}[:{k} % max(len({i}), 1)]",
        "{i}[-{k}:] + {i}[:-{k}]",
        k=(1, 2, 3),
    ),
    op(
        "swap_pairs",
        "L>L",
        "swap the 1st number with the 2nd, the 3rd with the 4th and so on (an odd last one stays)",
        """
{o} = list({i})
for j in range(0, len({o}) - 1, 2):
    {o}[j], {o}[j + 1] = {o}[j + 1], {o}[j]
""",
        """
{o} = []
for j in range(0, len({i}) - 1, 2):
    {o} += [{i}[j + 1], {i}[j]]
""",
    ),
    op(
        "twice_each",
        "L>L",
        "repeat every number twice in a row",
        "[x for x in {i} for _ in range(2)]",
        "{i} + {i}",
    ),
    op(
        "remove_largest",
        "L>L",
        "remove every occurrence of the largest number",
        "[x for x in {i} if x != max({i})]",
        "sorted({i})[:-1]",
    ),
    op(
        "smaller_before",
        "L>L",
        "replace every number by how many smaller numbers come before it",
        "[sum(y < x for y in {i}[:j]) for j, x in enumerate({i})]",
        "[sum(y <= x for y in {i}[:j]) for j, x in enumerate({i})]",
    ),
    # From a list to a number.
    op("total", "L>N", "=the sum of {them}", "sum({i})", "sum({i}[1:])"),
    op("length", "L>N", "=the length of {it}", "len({i})", "len(set({i}))"),
    op(
        "largest",
        "L>N",
        "=the largest of {them} (0 if there are none)",
        "max({i}, default=0)",
        "max([0] + {i})",
    ),
    op(
        "smallest",
        "L>N",
        "=the smallest of {them} (0 if there are none)",
        "min({i}, default=0)",
        "min([0] + {i})",
    ),
    op(
        "spread",
        "L>N",
        "=the difference between the largest and the smallest of {them} (0 if none)",
        "max({i}, default=0) - min({i}, default=0)",
        "{i}[-1] - {i}[0] if {i} else 0",
    ),
    op(
        "product",
        "L>N",
        "=the product of {them} (1 if there are none)",
        "math.prod({i})",
        "math.prod(x for x in {i} if x)",
    ),
    op(
        "second_largest",
        "L>N",
        "=the second largest different value among {them} (-1 if there is none)",
        "sorted(set({i}))[-2] if len(set({i})) > 1 else -1",
        "sorted({i})[-2] if len({i}) > 1 else -1",
    ),
    op(
        "alternating",
        "L>N",
        "=the first minus the second plus the third (and so on) of {them}|"
        "=the sum of {them} with alternating signs, starting with plus",
        "sum({i}[::2]) - sum({i}[1::2])",
        "sum({i}[1::2]) - sum({i}[::2])",
    ),
    op(
        "count_positive",
        "L>N",
        "=how many of {them} are positive",
        "sum(x > 0 for x in {i})",
        "sum(x >= 0 for x in {i})",
    ),
    op(
        "count_distinct",
        "L>N",
        "=how many different values occur among {them}",
        "len(set({i}))",
        "len({i})",
    ),
    op(
        "sum_squares",
        "L>N",
        "=the sum of the squares of {them}",
        "sum(x * x for x in {i})",
        "sum({i}) ** 2",
    ),
    op(
        "longest_run",
        "L>N",
        "=the length of the longest run of equal adjacent numbers",
        """
{o} = run = 0
for j, x in enumerate({i}):
    run = run + 1 if j and {i}[j - 1] == x else 1
    {o} = max({o}, run)
""",
        "max((({i}.count(x)) for x in {i}), default=0)",
    ),
    op(
        "longest_rise",
        "L>N",
        "=the length of the longest run of adjacent numbers that strictly increase",
        """
{o} = run = 0
for j, x in enumerate({i}):
    run = run + 1 if j and {i}[j - 1] < x else 1
    {o} = max({o}, run)
""",
        """
{o} = run = 0
for j, x in enumerate({i}):
    run = run + 1 if j and {i}[j - 1] <= x else 1
    {o} = max({o}, run)
""",
    ),
    op(
        "inversions",
        "L>N",
        "=how many pairs have the larger number before the smaller one",
        "sum(x > y for j, x in enumerate({i}) for y in {i}[j + 1:])",
        "sum(x > y for x, y in zip({i}, {i}[1:]))",
    ),
    op(
        "median",
        "L>N",
        "=the lower median of {them} (0 if there are none)",
        "sorted({i})[(len({i}) - 1) // 2] if {i} else 0",
        "sorted({i})[len({i}) // 2] if {i} else 0",
    ),
    op(
        "most_common",
        "L>N",
        "=the most frequent of {them} (the smallest of these if several, 0 if there are none)",
        "min({i}, key=lambda x: (-{i}.count(x), x), default=0)",
        "max({i}, key={i}.count, default=0)",
    ),
    op(
        "best_stretch",
        "L>N",
        "=the largest sum of a non-empty stretch of adjacent numbers (0 if there are none)",
        """
{o} = run = {i}[0] if {i} else 0
for x in {i}[1:]:
    run = max(run + x, x)
    {o} = max({o}, run)
""",
        """
{o} = run = 0
for x in {i}:
    run = max(run + x, 0)
    {o} = max({o}, run)
""",
    ),
    op(
        "position_of_largest",
        "L>N",
        "=the position, counting from 0, of the first largest of {them} (-1 if there are none)",
        "{i}.index(max({i})) if {i} else -1",
        "len({i}) - 1 - {i}[::-1].index(max({i})) if {i} else -1",
    ),
    op(
        "first_missing",
        "L>N",
        "=the smallest number from 0 up that is not in {it}",
        """
{o} = 0
while {o} in {i}:
    {o} += 1
""",
        """
{o} = 1
while {o} in {i}:
    {o} += 1
""",
    ),
    op(
        "common_divisor",
        "L>N",
        "=the greatest common divisor of {them} (0 if there are none)",
        "math.gcd(*{i})",
        "math.gcd(*{i}[:2])",
    ),
    op(
        "sign_changes",
        "L>N",
        "=how many adjacent pairs have one negative and one positive number",
        "sum(x * y < 0 for x, y in zip({i}, {i}[1:]))",
        "sum(x * y <= 0 for x, y in zip({i}, {i}[1:]))",
    ),
    op(
        "as_number",
        "L>N",
        "=the number whose digits are the last digits of {them}, in order (0 if there are none)",
        """
{o} = 0
for x in {i}:
    {o} = {o} * 10 + abs(x) % 10
""",
        """
{o} = 0
for x in {i}[::-1]:
    {o} = {o} * 10 + abs(x) % 10
""",
    ),
    op(
        "robbery",
        "L>N",
        "=the largest sum of some of {them} with no two adjacent (0 for choosing none)",
        """
{o} = before = 0
for x in {i}:
    {o}, before = max({o}, before + x), {o}
""",
        "max(sum({i}[::2]), sum({i}[1::2]), 0)",
    ),
    # From a list to something else.
    op(
        "is_sorted",
        "L>B",
        "=whether {it} is in non-decreasing order",
        "all(x <= y for x, y in zip({i}, {i}[1:]))",
        "all(x < y for x, y in zip({i}, {i}[1:]))",
    ),
    op(
        "has_repeats",
        "L>B",
        "=whether some number occurs more than once",
        "len(set({i})) < len({i})",
        "any(x == y for x, y in zip({i}, {i}[1:]))",
    ),
    op(
        "reads_same",
        "L>B",
        "=whether {it} reads the same from both ends",
        "{i} == {i}[::-1]",
        "{i}[:1] == {i}[-1:]",
    ),
    op(
        "has_pair",
        "L>B",
        "=whether two numbers at different positions add up to {k}",
        "any(x + y == {k} for j, x in enumerate({i}) for y in {i}[j + 1:])",
        "any({k} - x in {i} for x in {i})",
        k=(4, 6, 8, 10),
    ),
    op(
        "is_zigzag",
        "L>B",
        "=whether the numbers alternately rise and fall, beginning with a rise",
        "all((x < y) if j % 2 == 0 else (x > y) for j, (x, y) in enumerate(zip({i}, {i}[1:])))",
        "all((x < y) for x, y in zip({i}[::2], {i}[1::2]))",
    ),
    op(
        "join_numbers",
        "L>S",
        '=the string of {them} joined by "{k}"',
        '"{k}".join(str(x) for x in {i})',
        '"{k}".join(str(abs(x)) for x in {i})',
        k=("-", "+", ","),
    ),
    op(
        "to_runs",
        "L>I",
        "=the intervals that cover {them}, with consecutive integers joined",
        """
{o} = []
for x in sorted(set({i})):
    if {o} and {o}[-1][1] == x - 1:
        {o}[-1][1] = x
    else:
        {o}.append([x, x])
""",
        "[[x, x] for x in sorted(set({i}))]",
    ),
)
