"""Operations on strings and lists of words."""

from projected_grpo.env.problems.katas.ops import op

STRINGS = (
    # From a string to a string.
    op("reverse_text", "S>S", "reverse {it}|write {it} backwards", "{i}[::-1]", "{i}[:0:-1]"),
    op("upper", "S>S", "turn every letter into upper case", "{i}.upper()", "{i}.title()"),
    op(
        "swap_case",
        "S>S",
        "swap upper and lower case of every letter",
        "{i}.swapcase()",
        "{i}.upper()",
    ),
    op(
        "no_vowels",
        "S>S",
        "remove every vowel (a, e, i, o, u in either case)",
        '"".join(c for c in {i} if c.lower() not in "aeiou")',
        '"".join(c for c in {i} if c not in "aeiou")',
    ),
    op(
        "only_letters",
        "S>S",
        "keep only the letters|drop everything that is not a letter",
        '"".join(c for c in {i} if c.isalpha())',
        '"".join(c for c in {i} if c != " ")',
    ),
    op(
        "no_digits",
        "S>S",
        "remove every digit",
        '"".join(c for c in {i} if not c.isdigit())',
        '"".join(c for c in {i} if c.isalpha())',
    ),
    op(
        "shift_letters",
        "S>S",
        "move every lower-case letter {k} places on in the alphabet (after z comes a)",
        '"".join(chr((ord(c) - 97 + {k}) % 26 + 97) if c.islower() else c for c in {i})',
        '"".join(chr(ord(c) + {k}) if c.islower() else c for c in {i})',
        k=(5, 7, 10, 13),
    ),
    op(
        "squeeze_text",
        "S>S",
        "collapse every run of one repeated character into one",
        """
{o} = ""
for c in {i}:
    if {o}[-1:] != c:
        {o} += c
""",
        '"".join(dict.fromkeys({i}))',
    ),
    op(
        "first_seen",
        "S>S",
        "keep only the first occurrence of every character",
        '"".join(dict.fromkeys({i}))',
        '"".join(sorted(set({i})))',
    ),
    op(
        "double_chars",
        "S>S",
        "write every character twice in a row",
        '"".join(c * 2 for c in {i})',
        "{i} * 2",
    ),
    op(
        "dash_spaces",
        "S>S",
        'replace every space by "{k}"',
        '{i}.replace(" ", "{k}")',
        '"{k}".join({i}.split())',
        k=("-", "_", "."),
    ),
    op(
        "reverse_words",
        "S>S",
        "reverse every word in its place (words are separated by spaces)",
        '" ".join(w[::-1] for w in {i}.split(" "))',
        '" ".join({i}.split(" ")[::-1])',
    ),
    op(
        "reverse_word_order",
        "S>S",
        "put its words in the opposite order, separated by one space",
        '" ".join({i}.split()[::-1])',
        "{i}[::-1]",
    ),
    op(
        "even_chars",
        "S>S",
        "keep only the characters at even positions, counting from 0",
        "{i}[::2]",
        "{i}[1::2]",
    ),
    op(
        "sort_chars",
        "S>S",
        "sort {them} by character code",
        '"".join(sorted({i}))',
        '"".join(sorted({i}, key=str.lower))',
    ),
    op(
        "initials",
        "S>S",
        "=the first characters of its words, joined together",
        '"".join(w[0] for w in {i}.split())',
        "{i}[:1]",
    ),
    op(
        "run_lengths",
        "S>S",
        "replace every run of one character by the character and the length of the run",
        """
{o} = ""
run = 0
for j, c in enumerate({i}):
    run += 1
    if {i}[j + 1:j + 2] != c:
        {o} += c + str(run)
        run = 0
""",
        '"".join(c + str({i}.count(c)) for c in dict.fromkeys({i}))',
    ),
    op(
        "rotate_text",
        "S>S",
        "move the first {k} characters to the end",
        "{i}[{k}:] + {i}[:{k}]",
        "{i}[-{k}:] + {i}[:-{k}]",
        k=(1, 2, 3),
    ),
    op("mirror", "S>S", "append its own reverse to {it}", "{i} + {i}[::-1]", "{i} + {i}[-2::-1]"),
    op(
        "camel",
        "S>S",
        "=its words in lower case, all but the first capitalised, joined together",
        '"".join(w.capitalize() if j else w.lower() for j, w in enumerate({i}.split()))',
        '"".join(w.capitalize() for w in {i}.split())',
    ),
    op(
        "widest_palindrome",
        "S>S",
        "=the longest part of {it} that reads the same backwards (the first one if several)",
        """
{o} = ""
for j in range(len({i})):
    for m in range(j + 1, len({i}) + 1):
        part = {i}[j:m]
        if part == part[::-1] and len(part) > len({o}):
            {o} = part
""",
        """
{o} = {i}[:1]
for j in range(len({i})):
    for m in range(1, j + 1):
        part = {i}[j - m:j + m + 1]
        if part == part[::-1] and len(part) > len({o}):
            {o} = part
""",
    ),
    # From a string to a number or a truth value.
    op("count_chars", "S>N", "=the number of characters of {it}", "len({i})", "len(set({i}))"),
    op(
        "count_vowels",
        "S>N",
        "=how many vowels (a, e, i, o, u in either case) {it} has",
        'sum(c.lower() in "aeiou" for c in {i})',
        'sum(c in "aeiou" for c in {i})',
    ),
    op(
        "count_words",
        "S>N",
        "=how many words {it} has (separated by spaces)",
        "len({i}.split())",
        '{i}.count(" ") + 1',
    ),
    op(
        "count_letter",
        "S>N",
        "=how often the letter {k} occurs in either case",
        '{i}.lower().count("{k}")',
        '{i}.count("{k}")',
        k=("a", "e", "o", "n"),
    ),
    op(
        "distinct_letters",
        "S>N",
        "=how many different letters occur, upper and lower case being one",
        "len({c for c in {i}.lower() if c.isalpha()})",
        "len({c for c in {i} if c.isalpha()})",
    ),
    op(
        "digit_total",
        "S>N",
        "=the sum of all digits in {it}",
        "sum(int(c) for c in {i} if c.isdigit())",
        "sum(c.isdigit() for c in {i})",
    ),
    op(
        "number_total",
        "S>N",
        "=the sum of the whole numbers in {it}, adjacent digits being one number",
        "sum(int(x) for x in ''.join(c if c.isdigit() else ' ' for c in {i}).split())",
        "sum(int(c) for c in {i} if c.isdigit())",
    ),
    op(
        "longest_same",
        "S>N",
        "=the length of the longest run of one repeated character",
        """
{o} = run = 0
for j, c in enumerate({i}):
    run = run + 1 if j and {i}[j - 1] == c else 1
    {o} = max({o}, run)
""",
        "max(({i}.count(c) for c in {i}), default=0)",
    ),
    op(
        "longest_word_length",
        "S>N",
        "=the length of its longest word (0 if it has none)",
        "max((len(w) for w in {i}.split()), default=0)",
        "len(max({i}.split(), default=''))",
    ),
    op(
        "case_balance",
        "S>N",
        "=the number of its upper-case letters minus that of its lower-case ones",
        "sum(c.isupper() for c in {i}) - sum(c.islower() for c in {i})",
        "2 * sum(c.isupper() for c in {i}) - len({i})",
    ),
    op(
        "distinct_window",
        "S>N",
        "=the length of its longest part without a repeated character",
        """
{o} = start = 0
for j, c in enumerate({i}):
    start = max(start, {i}.rfind(c, 0, j) + 1)
    {o} = max({o}, j - start + 1)
""",
        "len(set({i}))",
    ),
    op(
        "is_palindrome",
        "S>B",
        "=whether {it} reads the same backwards, upper and lower case being one",
        "{i}.lower() == {i}.lower()[::-1]",
        "{i} == {i}[::-1]",
    ),
    op(
        "all_different",
        "S>B",
        "=whether no character occurs twice in {it}",
        "len(set({i})) == len({i})",
        "all(x != y for x, y in zip({i}, {i}[1:]))",
    ),
    op(
        "same_ends",
        "S>B",
        "=whether {it} begins and ends with the same character (true if empty)",
        "{i}[:1] == {i}[-1:]",
        "{i} == {i}[::-1]",
    ),
    # From a string to something else.
    op(
        "words_of",
        "S>W",
        "=the list of its words in lower case",
        "{i}.lower().split()",
        "{i}.lower().split()[:-1]",
    ),
    op(
        "word_lengths",
        "S>L",
        "=the lengths of its words, in order",
        "[len(w) for w in {i}.split()]",
        "sorted(len(w) for w in {i}.split())",
    ),
    op(
        "digits_in",
        "S>L",
        "=the list of its digits as integers, in order",
        "[int(c) for c in {i} if c.isdigit()]",
        "sorted(int(c) for c in {i} if c.isdigit())",
    ),
    op(
        "vowel_positions",
        "S>L",
        "=the positions of its vowels (a, e, i, o, u in either case), counting from 0",
        '[j for j, c in enumerate({i}) if c.lower() in "aeiou"]',
        '[j for j, c in enumerate({i}, 1) if c.lower() in "aeiou"]',
    ),
    op(
        "letter_numbers",
        "S>L",
        "=the list of the places in the alphabet of its lower-case letters (a is 1)",
        "[ord(c) - 96 for c in {i} if c.islower()]",
        "[ord(c) - 97 for c in {i} if c.islower()]",
    ),
    op(
        "letter_counts",
        "S>D",
        "=the dictionary from each letter, in lower case, to how often it occurs",
        """
{o} = {}
for c in {i}.lower():
    if c.isalpha():
        {o}[c] = {o}.get(c, 0) + 1
""",
        """
{o} = {}
for c in {i}:
    if c.isalpha():
        {o}[c] = {o}.get(c, 0) + 1
""",
    ),
)

WORDS = (
    op(
        "sort_words",
        "W>W",
        "sort {them} alphabetically|put {them} in alphabetical order",
        "sorted({i})",
        "sorted(set({i}))",
    ),
    op(
        "sort_by_length",
        "W>W",
        "sort {them} by length, with ties in their old order",
        "sorted({i}, key=len)",
        "sorted({i}, key=lambda w: (len(w), w))",
    ),
    op("reverse_list", "W>W", "reverse the order of {them}", "{i}[::-1]", "[w[::-1] for w in {i}]"),
    op("flip_each", "W>W", "write each of {them} backwards", "[w[::-1] for w in {i}]", "{i}[::-1]"),
    op(
        "keep_long",
        "W>W",
        "keep only the words longer than {k} letters",
        "[w for w in {i} if len(w) > {k}]",
        "[w for w in {i} if len(w) >= {k}]",
        k=(2, 3, 4),
    ),
    op(
        "keep_short",
        "W>W",
        "keep only the words of at most {k} letters",
        "[w for w in {i} if len(w) <= {k}]",
        "[w for w in {i} if len(w) < {k}]",
        k=(3, 4, 5),
    ),
    op(
        "unique_words",
        "W>W",
        "keep only the first occurrence of every word",
        "list(dict.fromkeys({i}))",
        "sorted(set({i}))",
    ),
    op(
        "vowel_words",
        "W>W",
        "keep only the words that begin with one of a, e, i, o, u",
        '[w for w in {i} if w[:1] in tuple("aeiou")]',
        '[w for w in {i} if any(c in "aeiou" for c in w)]',
    ),
    op(
        "words_with",
        "W>W",
        "keep only the words that contain the letter {k}",
        '[w for w in {i} if "{k}" in w]',
        '[w for w in {i} if w[:1] == "{k}"]',
        k=("a", "e", "o", "n"),
    ),
    op(
        "cut_words",
        "W>W",
        "cut each of {them} down to its first {k} letters",
        "[w[:{k}] for w in {i}]",
        "[w[{k}:] for w in {i}]",
        k=(2, 3),
    ),
    op(
        "longest_words",
        "W>W",
        "keep only the words of the greatest length",
        "[w for w in {i} if len(w) == max(map(len, {i}))]",
        "[max({i}, key=len)] if {i} else []",
    ),
    op(
        "letters_total",
        "W>N",
        "=the total number of letters of {them}",
        "sum(len(w) for w in {i})",
        "sum(len(w) for w in set({i}))",
    ),
    op(
        "longest_length",
        "W>N",
        "=the length of the longest of {them} (0 if there are none)",
        "max((len(w) for w in {i}), default=0)",
        "len(max({i}, default=''))",
    ),
    op("count_words_in", "W>N", "=the length of {it}", "len({i})", "len(set({i}))"),
    op(
        "count_palindromes",
        "W>N",
        "=how many of {them} read the same backwards",
        "sum(w == w[::-1] for w in {i})",
        "sum(w[0] == w[-1] for w in {i})",
    ),
    op(
        "chain_links",
        "W>N",
        "=how many of {them} begin with the letter with which the word before ends",
        "sum(x[-1] == y[0] for x, y in zip({i}, {i}[1:]))",
        "sum(x[0] == y[0] for x, y in zip({i}, {i}[1:]))",
    ),
    op(
        "join_words",
        "W>S",
        '=the string of {them} joined by "{k}"',
        '"{k}".join({i})',
        '"{k}".join({i}) + "{k}"',
        k=("-", " ", "/"),
    ),
    op(
        "first_letters",
        "W>S",
        "=the string of the first letters of {them}",
        '"".join(w[0] for w in {i})',
        '"".join(w[-1] for w in {i})',
    ),
    op(
        "last_letters",
        "W>S",
        "=the string of the last letters of {them}",
        '"".join(w[-1] for w in {i})',
        '"".join(w[0] for w in {i})',
    ),
    op(
        "longest_one",
        "W>S",
        '=the longest of {them} (the first if several, "" if there are none)',
        'max({i}, key=len, default="")',
        'max({i}, key=lambda w: (len(w), w), default="")',
    ),
    op(
        "common_prefix",
        "W>S",
        '=the longest string with which all of {them} begin ("" if none)',
        """
{o} = {i}[0] if {i} else ""
for w in {i}:
    while not w.startswith({o}):
        {o} = {o}[:-1]
""",
        '{i}[0][:1] if {i} else ""',
    ),
    op(
        "lengths",
        "W>L",
        "=the lengths of {them}, in order",
        "[len(w) for w in {i}]",
        "sorted(len(w) for w in {i})",
    ),
    op(
        "word_counts",
        "W>D",
        "=the dictionary from each of {them} to how often it occurs",
        "{w: {i}.count(w) for w in {i}}",
        "{w: 1 for w in {i}}",
    ),
    op(
        "length_by_word",
        "W>D",
        "=the dictionary from each of {them} to its length",
        "{w: len(w) for w in {i}}",
        "{w: len(set(w)) for w in {i}}",
    ),
    op(
        "initial_counts",
        "W>D",
        "=the dictionary from first letters to how many of {them} have them",
        """
{o} = {}
for w in {i}:
    {o}[w[0]] = {o}.get(w[0], 0) + 1
""",
        """
{o} = {}
for w in set({i}):
    {o}[w[0]] = {o}.get(w[0], 0) + 1
""",
    ),
)
