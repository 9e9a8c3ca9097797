"""Tokens that tell by their first letters who issued them.  Pure.

Every rule is a prefix and a run of at least so many characters, so that a text is read once: what
follows a run is never looked at, and a run that is too short is given up after so many characters.
"""

import re
from collections.abc import Iterator

from servekit.secrets.randomness import Span, is_mixed

_WORD = r"[\w-]"
_ALNUM = r"[A-Za-z0-9]"
_DOTTED = r"[\w.~+/=-]"

# (prefixes, characters of the run, least length of the run): as the issuers document them, or as
# gitleaks' published rules have them.
_PREFIXES: tuple[tuple[str, str, int], ...] = (
    # Clouds.
    ("AKIA ASIA ABIA ACCA A3T0", "[A-Z0-9]", 12),
    ("ABSK bedrock-api-key-", r"[\w+/=-]", 40),
    ("AIza", _WORD, 30),
    ("ya29. GOCSPX- 1//0", _DOTTED, 20),
    ("LTAI AKID", _ALNUM, 14),
    ("dop_v1_ doo_v1_ dor_v1_", "[a-f0-9]", 32),
    ("HRKU-", _WORD, 30),
    ("fo1_ fm1_ fm1a_ fm1r_ fm2_", r"[\w+/=,-]", 30),
    ("nfp_ AQVN pscale_tkn_ pscale_pw_ pscale_oauth_", r"[\w.=-]", 20),
    ("hvs. hvb. hvr. v1.0- ops_eyJ dp.pt. dp.st. dp.ct. dp.sa. tskey- otp1.", _DOTTED, 24),
    # Code, packages, builds.
    ("ghp_ gho_ ghu_ ghs_ ghr_", r"\w", 20),
    ("github_pat_", r"\w", 20),
    (
        "glpat- gldt- glrt- glptt- glcbt- glagent- gloas- glsoat- glft- glimt- glffct-",
        r"[\w.-]",
        16,
    ),
    ("_gitlab_session= GR1348941", _WORD, 16),
    ("ATATT3 ATBB ATCTT3", r"[\w=-]", 20),
    ("npm_ rubygems_ CLOJARS_ dckr_pat_ dckr_oat_ pnu_ AKCp cmVmdGtu", r"[\w-]", 20),
    ("pypi-AgE pypi-", _WORD, 20),
    ("bkua_ bkct_ CCIPAT_ sntrys_ sntryu_ sbp_", r"[\w+/=-]", 30),
    # Models.
    ("hf_ api_org_ r8_ gsk_ xai- pplx- nvapi- lsv2_pt_ lsv2_sk_ tgp_v1_", _WORD, 20),
    # People's messages.
    ("xoxb- xoxp- xoxa- xoxe- xoxr- xoxs- xoxo- xoxc- xoxd- xoxe. xapp-", r"[\w.%-]", 10),
    ("SG.", r"[\w.=-]", 20),
    ("xkeysib- xsmtpsib-", r"[\w-]", 16),
    # Money and shops.
    ("sk_live_ sk_test_ rk_live_ rk_test_ pk_live_ sk_prod_ rk_prod_ whsec_", r"[\w+/=-]", 10),
    (
        "sq0atp- sq0csp- sq0idp- access-production- access-sandbox- EZAK EZTK "
        "FLWSECK_TEST- FLWSECK- FLWPUBK_TEST-",
        r"[\w-]",
        12,
    ),
    ("shpat_ shpca_ shppa_ shpss_ shippo_live_ shippo_test_", "[a-fA-F0-9]", 20),
    # Watching and the rest.
    ("glsa_ glc_ eyJrIjoi NRAK- NRJS- NRAL- NRIQ- dt0c01. dt0s01. dt0s16.", r"[\w.+/=-]", 18),
    (
        "PMAK- lin_api_ lin_oauth_ figd_ figo_ ntn_ duffel_live_ duffel_test_ CFPAT- FlyV1 fio-u-",
        r"[\w+/=-]",
        24,
    ),
    (
        "rdme_ tfp_ sha256~ sm_aat_ sm_pat_ sm_sat_ rsk_ xau_ ico- s-s4t2ud- s-s4t2af-",
        r"[\w.-]",
        16,
    ),
    ("AGE-SECRET-KEY-1", "[A-Z0-9]", 20),
    ("p8e- ps8e- ddp_", r"[\w+/=-]", 32),
    # A JSON Web Token, whole or cut: `{"` in base64.
    ("eyJ ewog ewoJ ZXlK", r"[\w.+/=-]", 12),
)

# Prefixes that words have too (`sk-learn`, `test_`): only before what a generator made.
_VAGUE: tuple[tuple[str, str, int], ...] = (
    ("sk- sk_ key- pubkey- re_ secret_ pat sl. cio fw_ oy2 pul-", r"[\w.-]", 20),
    (
        "live_ test_ dapi rnd_ vcp_ vck_ sgp_ sgamp_ intra_ phc_ phx_ API- SCW MII AROA AIDA",
        _WORD,
        17,
    ),
    ("EAAM EAAC EAAA", _WORD, 40),
)

# Those that are told by their shape, and how many characters of one stand before the match: a
# pattern that begins with a letter is found many times faster than one that begins with any.
_SHAPES = (
    (r"\.[\w-]{6}\.[\w-]{27,}+", 28),  # a bot of Discord's
    (r":A[\w-]{32,}+", 12),  # a bot of Telegram's
    (r"\.atlasv1\.[\w-]{20,}+", 14),  # Terraform Cloud
    (r"Q~[\w~.-]{31,}+", 4),  # a client secret of Azure's
    (r"-us\d{1,2}\b(?<=[0-9a-f]{32}-us\d|[0-9a-f]{31}-us\d\d)", 32),  # Mailchimp
    (r"(?:SK|AC)(?<![\w-]..)[0-9a-f]{32}\b", 0),  # Twilio
    (r"\$(?:apr1|[1256y]|2[abxy]|argon2\w{1,2}|scrypt)\$[^\s:\"']{10,}+", 0),  # a hashed password
    (r"\.acc[_-][a-z0-9-]{10,32}\.[\w+/=-]{20,}+", 40),  # Authress
)


def _alternatives(rules: tuple[tuple[str, str, int], ...]) -> re.Pattern[str]:
    """Return one pattern with an alternative per first letter, each at the start of a word."""
    by_first: dict[str, list[str]] = {}
    for prefixes, characters, least in rules:
        for prefix in prefixes.split():
            rule = f"{re.escape(prefix[1:])}{characters}{{{least},}}+"
            by_first.setdefault(re.escape(prefix[0]), []).append(rule)
    starts = (f"{one}(?<![A-Za-z0-9]{one})(?:{'|'.join(by_first[one])})" for one in by_first)
    return re.compile("|".join(starts))


_ISSUED = _alternatives(_PREFIXES)
_PERHAPS_ISSUED = _alternatives(_VAGUE)
_SHAPED = tuple((re.compile(pattern), before) for pattern, before in _SHAPES)
_WORD_BEFORE = re.compile(r"[\w~.-]*\Z")


def issued_tokens(text: str) -> Iterator[Span]:
    """Yield where tokens of known issuers stand in *text*."""
    for found in _ISSUED.finditer(text):
        yield found.span()
    for found in _PERHAPS_ISSUED.finditer(text):
        if is_mixed(found.group()):
            yield found.span()
    for pattern, before in _SHAPED:
        for found in pattern.finditer(text):
            start = max(0, found.start() - before)
            word = _WORD_BEFORE.search(text[start : found.start()])
            if is_mixed(found.group()):
                yield found.start() - len(word[0] if word else ""), found.end()
