"""Operations on dictionaries, intervals, nested lists, and on two arguments."""

from projected_grpo.env.problems.katas.ops import op

DICTS = (
    op(
        "total_amount",
        "D>N",
        "=the sum of all amounts",
        "sum({i}.values())",
        "sum(set({i}.values()))",
    ),
    op(
        "largest_amount",
        "D>N",
        "=the largest amount (0 if {it} is empty)",
        "max({i}.values(), default=0)",
        "sorted({i}.items())[-1][1] if {i} else 0",
    ),
    op(
        "count_above",
        "D>N",
        "=how many amounts are above {k}",
        "sum(v > {k} for v in {i}.values())",
        "sum(v >= {k} for v in {i}.values())",
        k=(1, 2, 3, 4),
    ),
    op(
        "distinct_amounts",
        "D>N",
        "=how many different amounts occur",
        "len(set({i}.values()))",
        "len({i})",
    ),
    op(
        "names_sorted",
        "D>W",
        "=the list of the names in alphabetical order",
        "sorted({i})",
        "sorted({i}, key=lambda w: (len(w), w))",
    ),
    op(
        "names_above",
        "D>W",
        "=the alphabetical list of the names with an amount above {k}",
        "sorted(w for w, v in {i}.items() if v > {k})",
        "sorted(w for w, v in {i}.items() if v >= {k})",
        k=(1, 2, 3, 4),
    ),
    op(
        "names_by_amount",
        "D>W",
        "=the list of the names from largest to smallest amount, ties in alphabetical order",
        "sorted({i}, key=lambda w: (-{i}[w], w))",
        "sorted({i}, key=lambda w: {i}[w], reverse=True)",
    ),
    op(
        "amounts_sorted",
        "D>L",
        "=the list of all amounts in increasing order",
        "sorted({i}.values())",
        "sorted(set({i}.values()))",
    ),
    op(
        "amounts_by_name",
        "D>L",
        "=the list of all amounts, in the alphabetical order of their names",
        "[{i}[w] for w in sorted({i})]",
        "list({i}.values())",
    ),
    op(
        "keep_amounts",
        "D>D",
        "keep only the entries with an amount above {k}",
        "{w: v for w, v in {i}.items() if v > {k}}",
        "{w: v for w, v in {i}.items() if v >= {k}}",
        k=(1, 2, 3),
    ),
    op(
        "raise_amounts",
        "D>D",
        "add {k} to every amount",
        "{w: v + {k} for w, v in {i}.items()}",
        "{w: v * {k} for w, v in {i}.items()}",
        k=(3, 4, 5),
    ),
    op(
        "drop_largest",
        "D>D",
        "remove every entry with the largest amount",
        "{w: v for w, v in {i}.items() if v < max({i}.values())}",
        "dict(sorted({i}.items(), key=lambda e: e[1])[:-1])",
    ),
    op(
        "by_initial",
        "D>D",
        "add up the amounts of names with the same first letter, as a dictionary "
        "from first letters",
        """
{o} = {}
for w, v in {i}.items():
    {o}[w[0]] = {o}.get(w[0], 0) + v
""",
        "{w[0]: v for w, v in {i}.items()}",
    ),
    op(
        "richest",
        "D>S",
        "=the name with the largest amount (the alphabetically first if several, "
        '"" if there is none)',
        "min({i}, key=lambda w: (-{i}[w], w), default='')",
        "max({i}, key=lambda w: ({i}[w], w), default='')",
    ),
    op(
        "describe",
        "D>S",
        '=the string of all entries as name=amount, in alphabetical order, joined by "{k}"',
        '"{k}".join(f"{w}={v}" for w, v in sorted({i}.items()))',
        '"{k}".join(f"{v}={w}" for w, v in sorted({i}.items()))',
        k=(",", ";", " "),
    ),
)

INTERVALS = (
    op(
        "sort_spans",
        "I>I",
        "sort {them} by start, then by end",
        "sorted({i})",
        "sorted({i}, key=lambda s: s[1])",
    ),
    op(
        "merge_spans",
        "I>I",
        "merge all intervals that share a point, and sort them by start",
        """
{o} = []
for start, end in sorted({i}):
    if {o} and start <= {o}[-1][1]:
        {o}[-1][1] = max({o}[-1][1], end)
    else:
        {o}.append([start, end])
""",
        """
{o} = []
for start, end in sorted({i}):
    if {o} and start <= {o}[-1][1]:
        {o}[-1][1] = end
    else:
        {o}.append([start, end])
""",
    ),
    op(
        "keep_wide",
        "I>I",
        "keep only the intervals with end - start above {k}",
        "[s for s in {i} if s[1] - s[0] > {k}]",
        "[s for s in {i} if s[1] - s[0] >= {k}]",
        k=(1, 2, 3),
    ),
    op(
        "shift_spans",
        "I>I",
        "move every interval {k} to the right",
        "[[start + {k}, end + {k}] for start, end in {i}]",
        "[[start, end + {k}] for start, end in {i}]",
        k=(2, 3, 5),
    ),
    op(
        "cut_spans",
        "I>I",
        "cut {them} down to the range {lo} to {hi}, dropping those outside it",
        "[[max(s, {lo}), min(e, {hi})] for s, e in {i} if s <= {hi} and e >= {lo}]",
        "[[s, e] for s, e in {i} if {lo} <= s and e <= {hi}]",
        lo=(2, 3, 4),
        hi=(10, 11, 12),
    ),
    op(
        "gaps",
        "I>I",
        "=the list of the gaps [end, start] between {them}, in order",
        """
{o} = []
last = None
for start, end in sorted({i}):
    if last is not None and start > last:
        {o}.append([last, start])
    last = end if last is None else max(last, end)
""",
        """
{o} = []
last = None
for start, end in sorted({i}):
    if last is not None and start > last:
        {o}.append([last, start])
    last = end
""",
    ),
    op("count_spans", "I>N", "=the length of {it}", "len({i})", "len(set(s[0] for s in {i}))"),
    op(
        "total_width",
        "I>N",
        "=the sum of end - start over {them}",
        "sum(e - s for s, e in {i})",
        "sum(e - s + 1 for s, e in {i})",
    ),
    op(
        "covered",
        "I>N",
        "=how many integers lie in at least one of {them}",
        "len({x for s, e in {i} for x in range(s, e + 1)})",
        "sum(e - s + 1 for s, e in {i})",
    ),
    op(
        "widest",
        "I>N",
        "=the largest end - start of {them} (0 if there are none)",
        "max((e - s for s, e in {i}), default=0)",
        "max((e for s, e in {i}), default=0) - min((s for s, e in {i}), default=0)",
    ),
    op(
        "busiest",
        "I>N",
        "=the largest number of {them} that share a point",
        "max((sum(s <= x <= e for s, e in {i}) for x, _ in {i}), default=0)",
        "max((sum(s < x < e for s, e in {i}) for x, _ in {i}), default=0)",
    ),
    op(
        "overlap_pairs",
        "I>N",
        "=how many pairs of {them} share a point",
        "sum(s[0] <= t[1] and t[0] <= s[1] for j, s in enumerate({i}) for t in {i}[j + 1:])",
        "sum(s[0] < t[1] and t[0] < s[1] for j, s in enumerate({i}) for t in {i}[j + 1:])",
    ),
    op(
        "most_disjoint",
        "I>N",
        "=the largest number of {them} of which no two share a point",
        """
{o} = 0
last = None
for start, end in sorted({i}, key=lambda s: s[1]):
    if last is None or start > last:
        {o} += 1
        last = end
""",
        """
{o} = 0
last = None
for start, end in {i}:
    if last is None or start > last:
        {o} += 1
        last = end
""",
    ),
    op(
        "widths",
        "I>L",
        "=the list of end - start of {them}, in order",
        "[e - s for s, e in {i}]",
        "[e - s + 1 for s, e in {i}]",
    ),
    op(
        "starts",
        "I>L",
        "=the list of the starts of {them}, in order",
        "[s for s, e in {i}]",
        "[e for s, e in {i}]",
    ),
    op(
        "all_apart",
        "I>B",
        "=whether no two of {them} share a point",
        "not any(s[0] <= t[1] and t[0] <= s[1] for j, s in enumerate({i}) for t in {i}[j + 1:])",
        "all(s[1] < t[0] for s, t in zip({i}, {i}[1:]))",
    ),
)

NESTED = (
    op(
        "flatten",
        "T>L",
        "=the list of all integers in {them}, at any depth, in order",
        """
def flat(x):
    return [x] if isinstance(x, int) else [y for z in x for y in flat(z)]
{o} = flat({i})
""",
        "[y for z in {i} for y in (z if isinstance(z, list) else [z]) if isinstance(y, int)]",
    ),
    op(
        "depth",
        "T>N",
        "=the depth of {them} (1 for a list without lists in it)",
        """
def depth(x):
    return 0 if isinstance(x, int) else 1 + max((depth(y) for y in x), default=0)
{o} = depth({i})
""",
        "2 if any(isinstance(x, list) for x in {i}) else 1",
    ),
    op(
        "deep_sum",
        "T>N",
        "=the sum of all integers in {them}, at any depth",
        """
def total(x):
    return x if isinstance(x, int) else sum(total(y) for y in x)
{o} = total({i})
""",
        "sum(x for x in {i} if isinstance(x, int))",
    ),
    op(
        "weighted_sum",
        "T>N",
        "=the sum of all integers in {them}, each multiplied by its depth (1 at the top level)",
        """
def total(x, level):
    return x * level if isinstance(x, int) else sum(total(y, level + 1) for y in x)
{o} = total({i}, 0)
""",
        """
def total(x, level):
    return x * level if isinstance(x, int) else sum(total(y, level + 1) for y in x)
{o} = total({i}, 1)
""",
    ),
    op(
        "count_lists",
        "T>N",
        "=how many lists {them} holds at any depth, not counting itself",
        """
def count(x):
    return 0 if isinstance(x, int) else 1 + sum(count(y) for y in x)
{o} = count({i}) - 1
""",
        "sum(isinstance(x, list) for x in {i})",
    ),
    op(
        "count_leaves",
        "T>N",
        "=how many integers {them} holds at any depth",
        """
def count(x):
    return 1 if isinstance(x, int) else sum(count(y) for y in x)
{o} = count({i})
""",
        "len({i})",
    ),
    op(
        "deepest_number",
        "T>N",
        "=the largest integer in {them} at any depth (0 if there is none)",
        """
def flat(x):
    return [x] if isinstance(x, int) else [y for z in x for y in flat(z)]
{o} = max(flat({i}), default=0)
""",
        "max((x for x in {i} if isinstance(x, int)), default=0)",
    ),
    op(
        "deep_reverse",
        "T>T",
        "reverse {it} and every list in it, at any depth",
        """
def flip(x):
    return x if isinstance(x, int) else [flip(y) for y in x[::-1]]
{o} = flip({i})
""",
        "{i}[::-1]",
    ),
    op(
        "deep_scale",
        "T>T",
        "multiply every integer in {it} by {k}, at any depth",
        """
def scale(x):
    return x * {k} if isinstance(x, int) else [scale(y) for y in x]
{o} = scale({i})
""",
        "[x * {k} if isinstance(x, int) else x for x in {i}]",
        k=(2, 3, 5),
    ),
    op(
        "prune",
        "T>T",
        "remove every integer below {k} from {it}, at any depth (lists stay)",
        """
def prune(x):
    return x if isinstance(x, int) else [prune(y) for y in x if isinstance(y, list) or y >= {k}]
{o} = prune({i})
""",
        "[x for x in {i} if isinstance(x, list) or x >= {k}]",
        k=(1, 2, 3),
    ),
    op(
        "level_sums",
        "T>L",
        "=the list of the sums of the integers at each depth of {them}, from the top",
        """
{o} = []
level = {i}
while level:
    {o}.append(sum(x for x in level if isinstance(x, int)))
    level = [y for x in level if isinstance(x, list) for y in x]
""",
        "[x if isinstance(x, int) else sum(y for y in x if isinstance(y, int)) for x in {i}]",
    ),
)

LIST_AND_NUMBER = (
    op(
        "rotate_by",
        "K>L",
        "rotate {it} to the right by `k`",
        "nums[-(k % len(nums)):] + nums[:-(k % len(nums))] if nums and k % len(nums) else nums[:]",
        "nums[k:] + nums[:k]",
    ),
    op(
        "chunk_sums",
        "K>L",
        "=the sums of consecutive groups of `k` numbers (the last may be shorter)",
        "[sum(nums[j:j + k]) for j in range(0, len(nums), k)]",
        "[sum(nums[j:j + k]) for j in range(0, len(nums) - k + 1, k)]",
    ),
    op(
        "window_sums",
        "K>L",
        "=the sums of all stretches of `k` adjacent numbers, from left to right",
        "[sum(nums[j:j + k]) for j in range(len(nums) - k + 1)]",
        "[sum(nums[j:j + k]) for j in range(len(nums) - k)]",
    ),
    op(
        "top_k",
        "K>L",
        "=the `k` largest of {them}, from largest to smallest (all if there are fewer)",
        "sorted(nums, reverse=True)[:k]",
        "sorted(set(nums), reverse=True)[:k]",
    ),
    op(
        "every_kth",
        "K>L",
        "keep only every `k`-th number: the `k`-th, the 2`k`-th and so on",
        "nums[k - 1::k]",
        "nums[::k]",
    ),
    op(
        "reverse_groups",
        "K>L",
        "reverse each group of `k` numbers, the shorter last one too",
        "[x for j in range(0, len(nums), k) for x in nums[j:j + k][::-1]]",
        "[x for j in range(0, len(nums) - k + 1, k) for x in nums[j:j + k][::-1]]",
    ),
    op(
        "far_apart",
        "K>L",
        "keep the first number, then every number that differs by at least `k` from "
        "the last one kept",
        """
{o} = []
for x in nums:
    if not {o} or abs(x - {o}[-1]) >= k:
        {o}.append(x)
""",
        """
{o} = nums[:1]
for x, y in zip(nums, nums[1:]):
    if abs(y - x) >= k:
        {o}.append(y)
""",
    ),
    op(
        "kth_smallest",
        "K>N",
        "=the `k`-th smallest of {them}, counting repeats (-1 if there are fewer)",
        "sorted(nums)[k - 1] if k <= len(nums) else -1",
        "sorted(set(nums))[k - 1] if k <= len(set(nums)) else -1",
    ),
    op(
        "pairs_with_sum",
        "K>N",
        "=how many pairs of positions hold numbers that add up to `k`",
        "sum(x + y == k for j, x in enumerate(nums) for y in nums[j + 1:])",
        "sum(k - x in nums for x in nums) // 2",
    ),
    op(
        "pairs_at_distance",
        "K>N",
        "=how many pairs of positions hold numbers that differ by exactly `k`",
        "sum(abs(x - y) == k for j, x in enumerate(nums) for y in nums[j + 1:])",
        "sum(abs(x - y) == k for x, y in zip(nums, nums[1:]))",
    ),
    op(
        "best_window",
        "K>N",
        "=the largest sum of `k` adjacent numbers (0 if there are fewer)",
        "max((sum(nums[j:j + k]) for j in range(len(nums) - k + 1)), default=0)",
        "max([0] + [sum(nums[j:j + k]) for j in range(len(nums) - k + 1)])",
    ),
    op(
        "near_repeat",
        "K>B",
        "=whether two equal numbers stand at most `k` positions apart",
        "any(x in nums[j + 1:j + k + 1] for j, x in enumerate(nums))",
        "any(x in nums[j + 1:j + k] for j, x in enumerate(nums))",
    ),
    op(
        "stretch_with_sum",
        "K>B",
        "=whether some stretch of adjacent numbers sums to `k`",
        "any(sum(nums[j:m]) == k for j in range(len(nums)) for m in range(j + 1, len(nums) + 1))",
        "any(sum(nums[:m]) == k for m in range(1, len(nums) + 1))",
    ),
)

TWO_STRINGS = (
    op(
        "shared_start",
        "Q>S",
        "=the longest string with which both {them} begin",
        """
{o} = ""
for x, y in zip(s, t):
    if x != y:
        break
    {o} += x
""",
        '"".join(x for x, y in zip(s, t) if x == y)',
    ),
    op(
        "interleave",
        "Q>S",
        "take characters from {them} in turn, beginning with `s`, and append what is "
        "left of the longer one",
        '"".join(x + y for x, y in zip(s, t)) + s[len(t):] + t[len(s):]',
        '"".join(x + y for x, y in zip(s, t))',
    ),
    op(
        "shared_letters",
        "Q>S",
        "=the characters that occur in both {them}, each once, in sorted order",
        '"".join(sorted(set(s) & set(t)))',
        '"".join(sorted(c for c in s if c in t))',
    ),
    op(
        "subtract_text",
        "Q>S",
        "remove from `s` every character that occurs in `t`",
        '"".join(c for c in s if c not in t)',
        's.replace(t, "") if t else s',
    ),
    op(
        "mismatches",
        "Q>N",
        "=in how many places {them} differ, a missing character being a difference",
        "sum(x != y for x, y in zip(s, t)) + abs(len(s) - len(t))",
        "sum(x != y for x, y in zip(s, t))",
    ),
    op(
        "count_inside",
        "Q>N",
        "=how many positions of `s` begin an occurrence of `t` (overlaps count)",
        "sum(s.startswith(t, j) for j in range(len(s)))",
        "int(t in s)",
    ),
    op(
        "edit_distance",
        "Q>N",
        "=the fewest single-character insertions, deletions and replacements from `s` to `t`",
        """
def edits(x, y):
    if not x or not y:
        return len(x) + len(y)
    if x[0] == y[0]:
        return edits(x[1:], y[1:])
    return 1 + min(edits(x[1:], y), edits(x, y[1:]), edits(x[1:], y[1:]))
{o} = edits(s, t)
""",
        "sum(x != y for x, y in zip(s, t)) + abs(len(s) - len(t))",
    ),
    op(
        "is_anagram",
        "Q>B",
        "=whether {them} consist of the same characters, equally often",
        "sorted(s) == sorted(t)",
        "set(s) == set(t)",
    ),
    op(
        "is_subsequence",
        "Q>B",
        "=whether `s` can be made by removing characters from `t`",
        """
rest = iter(t)
{o} = all(c in rest for c in s)
""",
        "all(c in t for c in s)",
    ),
    op(
        "is_rotation",
        "Q>B",
        "=whether moving some first characters of `s` to its end gives `t`",
        "len(s) == len(t) and t in s + s",
        "sorted(s) == sorted(t)",
    ),
)
