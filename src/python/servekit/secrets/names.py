"""Whether a name asks for a secret, and whether a value gives one away.  Pure."""

import re
from functools import lru_cache

# What every name below has in it: nearly all names of a log are done with here.
_HINT = re.compile(
    r"(?i)pass|pwd|secret|tok|key|cred|auth|bear|jwt|conn|cook|sess|sign|mac|hook|dsn|pat"
    r"|psk|sas|otp|sid"
)
# In a name without its separators, in lower case.
_ASKS = re.compile(
    r"passw|passphrase|passcode|pwd|secret|token|apikey|credential|authorization|bearer|jwt"
    r"|accesskey|privatekey|privkey|connectionstring|connstr|webhook|cookie|sessionid|signature"
    r"|privatemac|requirepass|apisid"
)
# A part of the name, between separators and capitals.
_PARTS = frozenset({"pass", "auth", "dsn", "pat", "psk", "sas", "otp", "totp", "creds", "cred"})
# `key` alone is any key of any table; it is a secret's after one of these.
_KEYS = re.compile(
    r"(?:api|app|access|account|auth|priv|private|secret|shared|encrypt(?:ion)?|decrypt(?:ion)?"
    r"|crypto|cipher|sign(?:ing)?|master|root|admin|service|storage|subscription|license|deploy"
    r"|ssh|rsa|gpg|pgp|tls|ssl|server|client|jwt|hmac|fernet|webhook|integration|ingest|write"
    r"|consumer|customer|functions?|host|aes|session|bot|vault|unseal|recovery|preshared|team"
    r"|wireguard|sendgrid|stripe|openai|anthropic|datadog|mailgun|newrelic|cosmos|gemini|wandb"
    r"|twilio|algolia|cloudflare|azure|aws)keys?(?:data|base|b64|base64|value|id|prod|live|test|dev)?$"
    r"|webhookurl$|secretid$"
)
# Services whose keys have no prefix: beside their name a generated value is a key.
_SERVICES = re.compile(
    r"(?i)adafruit|airtable|algolia|asana|bitbucket|bittrex|cloudflare|codecov|coinbase|confluent"
    r"|contentful|datadog|discord|dropbox|etsy|facebook|finicity|flickr|gitter|heroku|hubspot|kucoin"
    r"|linear|linkedin|looker|messagebird|okta|plaid|sendbird|sentry|snyk|squarespace|sumo|travis"
    r"|twitch|wandb|yandex|zendesk"
)
# What is about a secret, and is none.
_ABOUT = re.compile(
    r"(?:file(?:name)?|path|dir|folder|ur[il]|endpoint|names?|ref|type|kind|count|total|length|len"
    r"|size|limit|policy|expir(?:y|es|ation|esin|esat)|ttl|lifetime|issuer|class|env|field|header"
    r"|prefix|enabled|required|rotation|version|provider|manager|storage|store|stdin|prompt|usage"
    r"|budget|index|parallel|ids?|mount|mode|format|regex|pattern|audience|helper|hint|algorithm|plugin)$"
)
# The vocabulary of a tokenizer, and counts of tokens.
_VOCABULARY = re.compile(
    r"tokeni[sz]|(?:max|min|num|total|prompt|completion|output|input|new|cached|reasoning|batched"
    r"|eos|bos|pad|unk|sep|cls|mask|special|added|stop|image|video|audio|thinking|draft|generated"
    r"|speculative|skip|ignore|unexpected|next|last|first|current|per|wait|pass)tokens?$"
)

# Words that stand where a value would, and say what is wrong with it or where it comes from.
_EXPLANATIONS = """
    no not is isn't was wasn't are must may might should shall can cannot can't could would will
    does doesn't did didn't do has have had expected unexpected invalid missing required
    requires failed fails failure error denied expired empty null none nil true false yes unset
    undefined incorrect wrong bad mismatch mismatched unauthorized unauthenticated forbidden
    unknown unable too already being set given provided found read reading loading loaded using
    use used from for to of in on at by or and with without the a an this that please see check
    only it if when optional disabled enabled default malformed rejected revoked accepted
    authentication authorization validation verification permission permissions access redacted
    masked hidden removed filtered omitted secret secrets password token tokens key string str
    bytes int integer number boolean bool any object unsupported length line char character
    position column parameter argument value values exist exists need needs contain contains got
    supplied entered auth login user header end eof identifier keyword punctuation timeout
    refused rate limit quota exceeded invalid_token invalid_grant insufficient_scope
    unauthorized_client connection
"""
_EXPLAINS = frozenset(_EXPLANATIONS.split())
# What is filled in later, or code that fetches it.
_PLACEHOLDER = re.compile(
    r"\$\{.*|\$\(.*|id=.*|\$[A-Z_][A-Z0-9_]*|\{\{.*|\{[\w.]*\}|%\w+%|%\(?\w*\)?[sdr]"
    r"|<[\w .|-]*>?|[xX]{3,}"
    r"|(?:os|process|self|settings|config|args|options|secrets|vars?|data|env|local)\.[\w.\[\]\"']+\)?"
    r"|[A-Za-z_][\w.]*\([^)]*\)?|(?:/run|/var|/etc|/mnt|/secrets)/[\w./-]+"
    r"|\[?(?:REDACTED|MASKED|FILTERED|HIDDEN)\]?|(?:Optional|Union|list|dict)\[.*|[^A-Za-z0-9]*",
    re.IGNORECASE | re.DOTALL,
)
_NUMBER = re.compile(r"[+-]?[\d_.,]+(?:[eE][+-]?\d+)?[kKmM]?(?:/s|%)?")
_SEPARATORS = re.compile(r"[\W_]+")
_CAPITALS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# A name is told by its end, and nobody writes a longer one.
_MAX_NAME_CHARS = 100
_MAX_PLAIN_CHARS = 200


def is_secret_name(name: str) -> bool:
    """Return whether *name*, of a variable, a field, a header or a flag, asks for a secret.

    `DB_PASSWORD`, `clientSecret`, `X-Api-Key` do; `max_tokens`, `token_url`, `primary_key` do not.
    """
    name = name[-_MAX_NAME_CHARS:]
    return bool(_HINT.search(name)) and _asks(name)


@lru_cache(1024)
def _asks(name: str) -> bool:
    flat = _SEPARATORS.sub("", name).lower()
    if _KEYS.search(flat):
        return True
    if _ABOUT.search(flat) or _VOCABULARY.search(flat):
        return False
    parts = _SEPARATORS.split(_CAPITALS.sub("_", name).lower())
    return bool(_ASKS.search(flat)) or not _PARTS.isdisjoint(parts)


def is_service_name(name: str) -> bool:
    """Return whether *name* speaks of a service that gives out keys."""
    return bool(_SERVICES.search(name[-_MAX_NAME_CHARS:]))


def is_password_name(name: str) -> bool:
    """Return whether a person made up what *name* asks for: it may be a word or a number."""
    return bool(re.search(r"(?i)passw|passphrase|passcode|pwd|(?<![a-z])pass(?![a-z])", name))


def is_plain_value(name: str, value: str) -> bool:
    """Return whether *value*, unquoted, is no secret though *name* asks for one.

    That is a word that explains a failure, a placeholder, the code that fetches it, or a number,
    but for passwords, which may well be one.
    """
    if len(value) > _MAX_PLAIN_CHARS:
        return False
    if value.rstrip(".,:;!?)]}").lower() in _EXPLAINS or _PLACEHOLDER.fullmatch(value):
        return True
    is_version = "." in value or len(value) < 6 or bool(re.search(r"(?i)tok|key|auth", name))
    return is_version and not is_password_name(name) and bool(_NUMBER.fullmatch(value))
