"""Operations on integers: digits, arithmetic, recursion. Numbers in a chain may be negative."""

from projected_grpo.env.problems.katas.ops import op

NUMBERS = (
    op(
        "digit_sum",
        "N>N",
        "=the sum of the digits of {them} (ignore the sign)",
        "sum(int(c) for c in str(abs({i})))",
        "abs({i}) % 9",
    ),
    op(
        "digit_product",
        "N>N",
        "=the product of the digits of {them} (ignore the sign)",
        "math.prod(int(c) for c in str(abs({i})))",
        "math.prod(int(c) for c in str(abs({i})) if c != '0')",
    ),
    op(
        "reverse_digits",
        "N>N",
        "reverse the digits of {them}, keeping the sign",
        "int(str(abs({i}))[::-1]) * (-1 if {i} < 0 else 1)",
        "int(str({i}).rstrip('0')[:0:-1] or 0)",
    ),
    op(
        "count_digits",
        "N>N",
        "=the number of digits of {them} (ignore the sign)",
        "len(str(abs({i})))",
        "len(set(str(abs({i}))))",
    ),
    op(
        "largest_digit",
        "N>N",
        "=the largest digit of {them}",
        "max(int(c) for c in str(abs({i})))",
        "int(str(abs({i}))[0])",
    ),
    op(
        "even_digits",
        "N>N",
        "=how many digits of {them} are even",
        "sum(int(c) % 2 == 0 for c in str(abs({i})))",
        "sum(int(c) % 2 == 0 for c in str(abs({i})) if c != '0')",
    ),
    op(
        "digital_root",
        "N>N",
        "=what is left when the digits of {them} are summed again and again down to one digit "
        "(ignore the sign)",
        """
def root(x):
    return x if x < 10 else root(sum(int(c) for c in str(x)))
{o} = root(abs({i}))
""",
        "abs({i}) % 9",
    ),
    op(
        "sort_digits",
        "N>N",
        "=the number made of the digits of {them} in decreasing order, without sign",
        "int(''.join(sorted(str(abs({i})), reverse=True)))",
        "int(''.join(sorted(str(abs({i})))))",
    ),
    op(
        "add_number",
        "N>N",
        "add {k} to {it}|increase {it} by {k}",
        "{i} + {k}",
        "{i} - {k}",
        k=(3, 7, 10, 12),
    ),
    op("times_number", "N>N", "multiply {it} by {k}", "{i} * {k}", "{i} + {k}", k=(3, 4, 6)),
    op("square_number", "N>N", "square {it}", "{i} * {i}", "{i} * 2"),
    op(
        "remainder",
        "N>N",
        "=the remainder of {them} divided by {k}, from 0 to {m}",
        "{i} % {k}",
        "{i} // {k}",
        k=(7,),
        m=(6,),
    ),
    op("halve_down", "N>N", "halve {it}, rounding down", "{i} // 2", "({i} + 1) // 2"),
    op(
        "round_tens",
        "N>N",
        "round {it} up to the next multiple of {k} (it stays if it is one)",
        "-(-{i} // {k}) * {k}",
        "({i} // {k} + 1) * {k}",
        k=(5, 10, 4),
    ),
    op(
        "distance",
        "N>N",
        "=the distance of {them} from {k}",
        "abs({i} - {k})",
        "{i} - {k}",
        k=(20, 50, 100),
    ),
    op(
        "triangle",
        "N>N",
        "=the sum of the whole numbers from 1 to {them} (0 if it is below 1)",
        "{i} * ({i} + 1) // 2 if {i} > 0 else 0",
        "{i} * ({i} - 1) // 2 if {i} > 0 else 0",
    ),
    op(
        "count_ones",
        "N>N",
        "=how many ones {them} has in binary (ignore the sign)",
        "bin(abs({i})).count('1')",
        "len(bin(abs({i}))) - 2",
    ),
    op(
        "count_divisors",
        "N>N",
        "=how many positive divisors {them} has (0 for 0, ignore the sign)",
        "sum(abs({i}) % d == 0 for d in range(1, abs({i}) + 1))",
        "sum(abs({i}) % d == 0 for d in range(2, abs({i})))",
    ),
    op(
        "smallest_factor",
        "N>N",
        "=the smallest divisor above 1 of {them} (0 if there is none, ignore the sign)",
        "next((d for d in range(2, abs({i}) + 1) if {i} % d == 0), 0)",
        "next((d for d in range(2, abs({i})) if {i} % d == 0), 0)",
    ),
    op(
        "steps_to_zero",
        "N>N",
        "=the steps that {them} needs to reach 0, where a step halves an even number and takes 1 "
        "off an odd one (ignore the sign)",
        """
def steps(x):
    return 0 if x == 0 else 1 + steps(x // 2 if x % 2 == 0 else x - 1)
{o} = steps(abs({i}))
""",
        "len(bin(abs({i}))) - 2",
    ),
    op(
        "collatz",
        "N>N",
        "=the steps that {them} needs to get to 1 or less, where a step halves an even number and "
        "turns an odd x into 3x + 1",
        """
def steps(x):
    return 0 if x <= 1 else 1 + steps(x // 2 if x % 2 == 0 else 3 * x + 1)
{o} = steps({i})
""",
        """
def steps(x):
    return 1 if x <= 1 else 1 + steps(x // 2 if x % 2 == 0 else 3 * x + 1)
{o} = steps({i})
""",
    ),
    op(
        "root_floor",
        "N>N",
        "=the square root of {them}, rounded down (ignore the sign)",
        "math.isqrt(abs({i}))",
        "round(math.sqrt(abs({i})))",
    ),
    op(
        "stairs",
        "N>N",
        "=the ways to climb a stair of as many steps as the last digit of {them} says, one or two "
        "steps at a time",
        """
def ways(steps):
    return 1 if steps < 2 else ways(steps - 1) + ways(steps - 2)
{o} = ways(abs({i}) % 10)
""",
        """
def ways(steps):
    return steps if steps < 2 else ways(steps - 1) + ways(steps - 2)
{o} = ways(abs({i}) % 10)
""",
    ),
    op(
        "is_prime",
        "N>B",
        "=whether {them} is a prime number",
        "{i} > 1 and all({i} % d for d in range(2, {i}))",
        "all({i} % d for d in range(2, {i}))",
    ),
    op(
        "is_square",
        "N>B",
        "=whether {them} is the square of a whole number",
        "{i} >= 0 and math.isqrt({i}) ** 2 == {i}",
        "{i} >= 0 and {i} % 10 in (0, 1, 4, 5, 6, 9)",
    ),
    op(
        "digits_rise",
        "N>B",
        "=whether the digits of {them} never decrease from left to right",
        "sorted(str(abs({i}))) == list(str(abs({i})))",
        "sorted(set(str(abs({i})))) == list(str(abs({i})))",
    ),
    op(
        "divides_digits",
        "N>B",
        "=whether {them} is divisible by the sum of its digits (false for 0, ignore the sign)",
        "{i} != 0 and {i} % sum(int(c) for c in str(abs({i}))) == 0",
        "{i} != 0 and {i} % max(int(c) for c in str(abs({i}))) == 0",
    ),
    op(
        "is_happy",
        "N>B",
        "=whether replacing {them} by the sum of its squared digits, over and over, ends in 1",
        """
seen = set()
x = abs({i})
while x not in seen:
    seen.add(x)
    x = sum(int(c) ** 2 for c in str(x))
{o} = x == 1
""",
        "sum(int(c) ** 2 for c in str(abs({i}))) == 1",
    ),
    op(
        "digits_of",
        "N>L",
        "=the list of the digits of {them}, in order (ignore the sign)",
        "[int(c) for c in str(abs({i}))]",
        "[int(c) for c in str(abs({i}))[::-1]]",
    ),
    op(
        "divisors_of",
        "N>L",
        "=the increasing list of the positive divisors of {them} (empty for 0, ignore the sign)",
        "[d for d in range(1, abs({i}) + 1) if {i} % d == 0]",
        "[d for d in range(1, abs({i})) if {i} % d == 0]",
    ),
    op(
        "prime_factors",
        "N>L",
        "=the list of the prime factors of {them}, smallest first, with repeats (none for 0 or 1, "
        "ignore the sign)",
        """
{o} = []
x, d = abs({i}), 2
while x > 1:
    if x % d == 0:
        {o}.append(d)
        x //= d
    else:
        d += 1
""",
        """
{o} = []
x, d = abs({i}), 2
while x > 1:
    if x % d == 0:
        {o}.append(d)
        x //= d
    d += 1
    if d > abs({i}):
        break
""",
    ),
    op(
        "halvings",
        "N>L",
        "=the list of {them} halved (rounding down) again and again until it is 0, beginning with "
        "itself (ignore the sign)",
        """
{o} = []
x = abs({i})
while x:
    {o}.append(x)
    x //= 2
""",
        """
{o} = []
x = abs({i})
while x:
    x //= 2
    {o}.append(x)
""",
    ),
    op(
        "to_binary",
        "N>S",
        "=the binary form of {them} as a string, without prefix (ignore the sign)",
        "bin(abs({i}))[2:]",
        "bin(abs({i}))[:1:-1]",
    ),
    op(
        "to_base",
        "N>S",
        "=the base-{k} form of {them} as a string (ignore the sign)",
        """
def digits(x):
    return str(x) if x < {k} else digits(x // {k}) + str(x % {k})
{o} = digits(abs({i}))
""",
        """
{o} = ""
x = abs({i})
while x:
    {o} = str(x % {k}) + {o}
    x //= {k} + 1
""",
        k=(3, 5, 7),
    ),
    op(
        "pad_zeros",
        "N>S",
        "=the digits of {them} as a string, padded with zeros on the left to "
        "{k} characters (ignore the sign)",
        "str(abs({i})).zfill({k})",
        "str(abs({i})).ljust({k}, '0')",
        k=(5, 6),
    ),
    op(
        "digit_counts",
        "N>D",
        "=the dictionary from each digit of {them}, as a string, to how often it occurs",
        "{c: str({i}).count(c) for c in str(abs({i}))}",
        "{c: 1 for c in str(abs({i}))}",
    ),
)

PAIRS = (
    op(
        "gcd",
        "P>N",
        "=the greatest common divisor of {them}",
        "math.gcd(a, b)",
        "max(d for d in range(1, min(a, b)) if a % d == b % d == 0) if min(a, b) > 1 else 1",
    ),
    op(
        "lcm",
        "P>N",
        "=the smallest positive number that both {them} divide",
        "math.lcm(a, b)",
        "a * b",
    ),
    op(
        "range_sum",
        "P>N",
        "=the sum of all integers between {them}, both included, whichever is larger",
        "sum(range(min(a, b), max(a, b) + 1))",
        "sum(range(a, b + 1))",
    ),
    op(
        "range_multiples",
        "P>N",
        "=how many multiples of {k} lie between {them}, both included, whichever is larger",
        "max(a, b) // {k} - (min(a, b) - 1) // {k}",
        "abs(a - b) // {k}",
        k=(3, 4, 7),
    ),
    op(
        "bit_distance",
        "P>N",
        "=in how many binary places {them} differ",
        "bin(a ^ b).count('1')",
        "abs(bin(a).count('1') - bin(b).count('1'))",
    ),
    op(
        "last_digit_power",
        "P>N",
        "=the last digit of `a` to the power `b`",
        "a ** b % 10",
        "a * b % 10",
    ),
    op(
        "carries",
        "P>N",
        "=how many carries occur when {them} are added by hand in decimal",
        """
{o} = carry = 0
while a or b:
    carry = int(a % 10 + b % 10 + carry > 9)
    {o} += carry
    a, b = a // 10, b // 10
""",
        "sum(int(x) + int(y) > 9 for x, y in zip(str(a)[::-1], str(b)[::-1]))",
    ),
    op(
        "euclid_steps",
        "P>N",
        "=how often the smaller of {them} is taken off the larger until both are equal",
        """
def steps(x, y):
    return 0 if x == y else 1 + steps(min(x, y), abs(x - y))
{o} = steps(a, b)
""",
        """
def steps(x, y):
    return 0 if y == 0 else 1 + steps(y, x % y)
{o} = steps(a, b)
""",
    ),
    op(
        "grid_paths",
        "P>N",
        "=the ways from one corner to the opposite one of a grid of `a` % 6 by `b` % 6 squares, "
        "going right or down along the lines",
        """
def paths(x, y):
    return 1 if x == 0 or y == 0 else paths(x - 1, y) + paths(x, y - 1)
{o} = paths(a % 6, b % 6)
""",
        """
def paths(x, y):
    return 1 if x <= 1 or y <= 1 else paths(x - 1, y) + paths(x, y - 1)
{o} = paths(a % 6, b % 6)
""",
    ),
    op(
        "common_divisors",
        "P>L",
        "=the increasing list of the common positive divisors of {them}",
        "[d for d in range(1, min(a, b) + 1) if a % d == b % d == 0]",
        "[d for d in range(1, min(a, b)) if a % d == b % d == 0]",
    ),
    op(
        "range_list",
        "P>L",
        "=the list of the integers from `a` to `b`, both included, going up or down",
        "list(range(a, b + 1)) if a <= b else list(range(a, b - 1, -1))",
        "list(range(min(a, b), max(a, b) + 1))",
    ),
    op(
        "shared_digits",
        "P>L",
        "=the increasing list of the digits that both {them} have",
        "sorted(int(c) for c in set(str(a)) & set(str(b)))",
        "[int(x) for x, y in zip(str(a), str(b)) if x == y]",
    ),
    op(
        "quotient_digits",
        "P>L",
        "=the first {k} digits after the decimal point of `a` / `b`",
        """
{o} = []
x = a % b
for _ in range({k}):
    {o}.append(x * 10 // b)
    x = x * 10 % b
""",
        """
{o} = []
x = a
for _ in range({k}):
    {o}.append(x // b)
    x = x % b * 10
""",
        k=(3, 4),
    ),
)
