"""The published formats of tokens, and private keys, which are secrets wherever they stand."""

import re

SECRET = "[secret]"  # noqa: S105 - what stands in its place
# Marks of a text with such a token, and the format: patterns cost milliseconds, so most are never made.
# A format without a distinctive start has its exact length.
_FORMATS = (
    (("A3T", "ABIA", "ACCA", "AKIA", "ASIA"), r"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[A-Z0-9]{16}"),  # AWS
    (
        ("AKC", "AP"),
        r"(?:AKC[A-Za-z0-9]{10,}|AP[0-9A-F](?=[A-Za-z0-9]*\d)[A-Za-z0-9]{8,})(?![A-Za-z0-9])",
    ),  # Artifactory
    (("ATATT3", "ATCTT3", "ATBB"), r"(?:ATATT3|ATCTT3|ATBB)[A-Za-z0-9_=-]{20,}"),  # Atlassian
    (("Q~",), r"[A-Za-z0-9_~.-]{3}[78]Q~[A-Za-z0-9_~.-]{31,34}"),  # Azure
    (("xkeysib-",), r"xkeysib-[0-9a-f]{30,}-[A-Za-z0-9]{8,}"),  # Brevo
    (("cio",), r"cio[A-Za-z0-9]{32}(?![A-Za-z0-9])"),  # crates.io
    (("dapi", "dkea", "dose"), r"(?:dapi|dkea|dose)[0-9a-f]{32}(?:-\d)?"),  # Databricks
    (("_v1_",), r"do[opr]_v1_[0-9a-f]{16,}"),  # DigitalOcean
    ((".",), r"[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,38}"),  # Discord
    (("dckr_",), r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{20,}"),  # Docker
    (("dp.",), r"dp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9_.-]{20,}"),  # Doppler
    (("EAA",), r"EAA[A-Za-z0-9]{30,}"),  # Facebook and Square
    (("figd_",), r"figd_[A-Za-z0-9_-]{20,}"),  # Figma
    (("fo1_", "fm1", "fm2"), r"f(?:o1|m[12][ar]?)_[A-Za-z0-9+/=_-]{20,}"),  # Fly.io
    (("gh", "github_pat_"), r"gh[opsru]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{20,}"),  # GitHub
    (
        ("gl", "GR1348941"),
        r"gl(?:pat|dt|ft|rt|cbt|ptt|soat|imt|agent|oas|ffct|wt)-[A-Za-z0-9_.-]{16,}|GR1348941[A-Za-z0-9_-]{16,}",
    ),  # GitLab
    (
        ("AIza", "ya29.", "GOCSPX-", "1//0"),
        r"AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{10,}|GOCSPX-[A-Za-z0-9_-]{20,}|1//0[A-Za-z0-9_-]{30,}",
    ),  # Google
    (("glsa_", "glc_"), r"gl(?:sa|c)_[A-Za-z0-9+/=_-]{20,}"),  # Grafana
    (
        ("hvs.", "hvb.", "hvr.", ".atlasv1."),
        r"hv[sbr]\.[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{30,}",
    ),  # HashiCorp
    (("HRKU-",), r"HRKU-[A-Za-z0-9_-]{20,}"),  # Heroku
    (("hf_", "api_org_"), r"(?:hf|api_org)_[A-Za-z0-9]{16,}"),  # Hugging Face
    (("eyJ",), r"eyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){1,4}"),  # JSON web tokens
    (("api-", "sdk-", "mob-"), r"(?:api|sdk|mob)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),  # LaunchDarkly
    (("lin_",), r"lin_(?:api|oauth)_[A-Za-z0-9]{20,}"),  # Linear
    (("-us",), r"[0-9a-z]{32}-us\d{1,2}"),  # Mailchimp
    (("key-",), r"(?:pub)?key-[0-9a-f]{32}"),  # Mailgun
    (("NRAK-", "NRJS-", "NRII-", "NRRA-"), r"NRAK-[A-Z0-9]{20,}|NR(?:JS|II|RA)-[A-Za-z0-9_-]{16,}"),  # New Relic
    (("npm_",), r"npm_[A-Za-z0-9]{30,}"),  # npm
    (("ntn_", "secret_"), r"ntn_[A-Za-z0-9]{20,}|secret_[A-Za-z0-9]{40,}"),  # Notion
    (("oy2",), r"oy2[a-z0-9]{43}"),  # NuGet
    (
        ("sk-",),
        r"sk-(?:ant-|proj-|svcacct-|admin-|or-|live-)[A-Za-z0-9_-]{16,}|sk-[A-Za-z0-9]{20,}",
    ),  # Anthropic and OpenAI
    (("opskpi_",), r"opskpi_[A-Za-z0-9_-]{16,}"),  # opskpi
    (("access_token$",), r"access_token\$(?:production|sandbox)\$[a-z0-9]{8,}\$[0-9a-f]{8,}"),  # PayPal
    (("pscale_",), r"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.=-]{20,}"),  # PlanetScale
    (("PMAK-",), r"PMAK-[0-9a-f]{16,}-[0-9a-f]{16,}"),  # Postman
    (("pul-",), r"pul-[0-9a-f]{30,}"),  # Pulumi
    (("pypi-",), r"pypi-[A-Za-z0-9_-]{30,}"),  # PyPI
    (("rubygems_",), r"rubygems_[0-9a-f]{30,}"),  # RubyGems
    (("SG.",), r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),  # SendGrid
    (("sntry",), r"sntry[su]_[A-Za-z0-9+/=_-]{20,}"),  # Sentry
    (("shp",), r"shp(?:at|ca|pa|ss|tka)_[A-Fa-f0-9]{20,}"),  # Shopify
    (("xox", "xapp-"), r"xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}|xapp-\d-[A-Za-z0-9-]{10,}"),  # Slack
    (("sq0",), r"sq0(?:atp|csp|idp)-[A-Za-z0-9_\\-]{20,}"),  # Square
    (("k_live_", "k_test_", "whsec_"), r"[rsp]k_(?:live|test)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/=]{16,}"),  # Stripe
    (("sb_", "sbp_"), r"sb_(?:secret|publishable)_[A-Za-z0-9_-]{10,}|sbp_[A-Za-z0-9_]{16,}"),  # Supabase
    (("tskey-",), r"tskey-[a-z]+-[A-Za-z0-9-]{16,}"),  # Tailscale
    ((":",), r"\d{8,10}:[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),  # Telegram
    (("AC", "SK"), r"(?:AC|SK)[0-9a-f]{32}(?![0-9a-f])"),  # Twilio
    (("AAAAAAAAAAAAAAAAAAAAA",), r"A{21}[A-Za-z0-9%]{30,}"),  # Twitter
    (("t1.",), r"t1\.[A-Z0-9a-z_-]{20,}={0,2}"),  # Yandex
    (("AGE-SECRET-KEY-",), r"AGE-SECRET-KEY-1[A-Z0-9]{20,}"),  # age
)
_SHORTEST = 11


def without_tokens(text: str) -> str:
    """The text without tokens of a published format, and without addresses whose path is a secret."""
    if max(map(len, text.split()), default=0) < _SHORTEST:
        return text
    if "://" in text:
        text = re.sub(_WEBHOOK, SECRET, text)
    for marks, pattern in _FORMATS:
        if any(mark in text for mark in marks):
            text = re.sub(rf"(?<![A-Za-z0-9_])(?:{pattern})", SECRET, text)
    return text


def without_private_keys(text: str) -> str:
    """The text without private keys: to their end, or to the end of the text where that was cut off."""
    return re.sub(_PRIVATE_KEY, SECRET, text, flags=re.S) if any(mark in text for mark in _OF_PRIVATE_KEYS) else text


_WEBHOOK = (
    r"(?<=://)(?:hooks\.slack\.com/(?:services|workflows|triggers)/|(?:\w+\.)?discord(?:app)?\.com/api/(?:v\d+/)?webhooks/"
    r"|[\w.-]{1,80}\.webhook\.office\.com/|api\.telegram\.org/bot|api\.softlayer\.com/soap/v3(?:\.1)?/|hooks\.zapier\.com/hooks/)"
    r"[^\s\"'<>|]{1,500}"
)
_OF_PRIVATE_KEYS = ("PRIVATE KEY", "PuTTY-User-Key-File", "<RSAKeyValue>", "encrypted secret key")
_PRIVATE_KEY = (
    r"-{4,5} ?BEGIN [^\n-]{0,60}PRIVATE KEY[^\n-]{0,20}-{4,5}.*?(?:-{4,5} ?END [^\n-]{0,80}-{4,5}|\Z)"
    r"|PuTTY-User-Key-File-\d.*?(?:Private-(?:MAC|Hash): ?[0-9a-fA-F]*|\Z)"
    r"|<RSAKeyValue>.*?(?:</RSAKeyValue>|\Z)"
    r"|(?:minisign|rsign) encrypted secret key\s+\S+"
)
