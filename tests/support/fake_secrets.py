"""Sixty formats of secrets, made up at run time: no scanner of pushes finds one in this file, and none was ever valid."""

import base64
import json
import random
import string
from collections.abc import Callable

ALNUM = string.ascii_letters + string.digits
LOWER = string.ascii_lowercase + string.digits
UPPER = string.ascii_uppercase + string.digits
HEX = "0123456789abcdef"
URL = f"{ALNUM}-_"
BASE64 = f"{ALNUM}+/"

Make = Callable[[str, int], str]


def maker(seed: int) -> Make:
    source = random.Random(seed)  # noqa: S311 - fakes

    def make(alphabet: str, length: int) -> str:
        while True:
            made = "".join(source.choice(alphabet) for _ in range(length))
            # As a random one practically always does; else it might be a word.
            if length < 8 or alphabet.isdigit() or (any(map(str.isdigit, made)) and any(map(str.isalpha, made))):
                return made

    return make


def encoded(value: dict[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def pem(kind: str, make: Make) -> tuple[str, str]:
    body = make(BASE64, 64) + "\n" + make(BASE64, 40)
    return f"{'-' * 5}BEGIN {kind}{'-' * 5}\n{body}\n{'-' * 5}END {kind}{'-' * 5}", body


def formats(seed: int) -> dict[str, tuple[str, str]]:
    """By name a text with a secret and what of it must not stay."""
    m = maker(seed)

    def token(start: str, alphabet: str, length: int, end: str = "") -> tuple[str, str]:
        made = start + m(alphabet, length) + end
        return made, made

    def named(text: str, secret: str) -> tuple[str, str]:
        return text.format(secret), secret

    def uuid() -> str:
        return "-".join(m(HEX, length) for length in (8, 4, 4, 4, 12))

    word = m(ALNUM, 12)
    multiline = m(LOWER, 12)
    block = f"db:\n  password: |\n    {multiline}\n  port: 5432"
    found = {
        "aws access key": token("AK" + "IA", UPPER, 16),
        "aws temporary key": token("AS" + "IA", UPPER, 16),
        "aws secret key": named("aws_secret_access_key = {}", m(BASE64, 40)),
        "azure storage key": named("DefaultEndpointsProtocol=https;AccountName=x;AccountKey={}==", m(BASE64, 86)),
        "azure client secret": token(m(ALNUM, 3) + "8" + "Q~", URL + "~.", 34),
        "azure sas": named("https://x.blob.core.windows.net/c?sv=2024-01-01&sig={}%3D", m(ALNUM, 43)),
        "github classic": token("gh" + "p_", ALNUM, 36),
        "github app": token("gh" + "s_", ALNUM, 36),
        "github fine-grained": token("github" + "_pat_", ALNUM + "_", 82),
        "gitlab": token("gl" + "pat-", URL, 20),
        "gitlab job": token("gl" + "cbt-64_", URL, 20),
        "gitlab runner": token("GR" + "1348941", URL, 20),
        "slack bot": token("xo" + f"xb-{m(string.digits, 12)}-{m(string.digits, 12)}-", ALNUM, 24),
        "slack webhook": token("https://hooks.slack" + f".com/services/T{m(UPPER, 8)}/B{m(UPPER, 8)}/", ALNUM, 24),
        "google api": token("AI" + "za", URL, 35),
        "google oauth": token("ya" + "29.", URL, 60),
        "google client": token("GOC" + "SPX-", URL, 28),
        "stripe": token("sk" + "_live_", ALNUM, 24),
        "stripe webhook": token("wh" + "sec_", ALNUM, 32),
        "twilio": token("S" + "K", HEX, 32),
        "sendgrid": token("S" + f"G.{m(URL, 22)}.", URL, 43),
        "mailgun": token("ke" + "y-", HEX, 32),
        "mailchimp": token("", LOWER, 32, "-us" + "12"),
        "npm": token("np" + "m_", ALNUM, 36),
        "npmrc": named("//npm.example.org/:_auth" + "Token={}", uuid()),
        "pypi": token("pyp" + "i-AgEIcHlwaS5vcmc", URL, 80),
        "discord bot": token("M" + m(ALNUM, 23) + f".{m(URL, 6)}.", URL, 27),
        "telegram bot": token(m("123456789", 9) + ":", URL, 35),
        "heroku": token("HR" + "KU-", ALNUM, 40),
        "digitalocean": token("do" + "p_v1_", HEX, 64),
        "shopify": token("sh" + "pat_", HEX, 32),
        "square": token("sq" + "0csp-", URL, 43),
        "paypal braintree": token("access_token" + f"$production${m(LOWER, 16)}$", HEX, 32),
        "openai": token("s" + "k-" + m(ALNUM, 20) + "T3Blbk" + "FJ", ALNUM, 20),
        "openai project": token("s" + "k-proj-", URL, 48),
        "anthropic": token("s" + "k-ant-api03-", URL, 90),
        "hugging face": token("h" + "f_", ALNUM, 34),
        "databricks": token("da" + "pi", HEX, 32),
        "atlassian": token("ATA" + "TT3", URL, 60),
        "artifactory": token("AK" + "C", ALNUM, 64),
        "grafana": token("gl" + "sa_", ALNUM, 32, "_" + m(HEX, 8)),
        "vault": token("hv" + "s.", ALNUM, 24),
        "terraform": token(m(ALNUM, 14) + ".atlas" + "v1.", ALNUM, 60),
        "new relic": token("NR" + "AK-", UPPER, 27),
        "docker": token("dck" + "r_pat_", URL, 27),
        "postman": token("PM" + "AK-" + m(HEX, 24) + "-", HEX, 34),
        "supabase": token("sb" + "_secret_", URL, 30),
        "json web token": token(f"{encoded({'alg': 'HS256'})}.{encoded({'sub': m(ALNUM, 20)})}.", URL, 43),
        "softlayer": named("softlayer_api_key = '{}'", m(LOWER, 64)),
        "ibm cloud": named("ibm_cloud_iam_api_key={}", m(URL, 44)),
        "ibm cos": named("secret_access_key: {}", m(HEX, 48)),
        "cloudant": named('cloudant_password = "{}"', m(HEX, 64)),
        "rsa key": pem("RSA PRIV" + "ATE KEY", m),
        "openssh key": pem("OPENSSH PRIV" + "ATE KEY", m),
        "pgp key": pem("PGP PRIV" + "ATE KEY BLOCK", m),
        "environment": named("DB_PA" + "SS={} make", word),
        "flag": named("app --pass" + "word {} --port 5432", word),
        "mysql": named("mysql -u root -p{} app", word),
        "yaml block": (block, multiline),
        "url": named("postgres://app:{}@db.example.com/app", word),
    }
    assert len(found) == 60
    return found


def named_values(secret: str) -> list[str]:
    """The ways in which names say that a value is a secret."""
    return [
        text.format(secret)
        for text in (
            *(
                "DB_PASS={}",
                "export PGPASSWORD={}",
                "password={}",
                "Password: {}",
                "PASSWD={}",
                "db.password={}",
                "pwd={}",
            ),
            *("dbPassword: {}", '"password": "{}"', "'secret': '{}'", '{{"apiKey":"{}"}}', "api-key: {}", "API_KEY={}"),
            *("apikey := {}", 'client_secret => "{}"', "set('auth_token', token={})", "<add key=x password='{}'/>"),
            *(
                "--password {}",
                "--password={}",
                "-password {}",
                "--db-pass {} --host x",
                "--api-key '{}'",
                "--token {}",
            ),
            *(
                "mysql -uroot -p{}",
                "mysqldump -h db -p{} app > x.sql",
                "mariadb -p{}",
                "sshpass -p {} ssh x",
                "sshpass -p{} ssh x",
            ),
            *(
                "redis-cli -a {} ping",
                "docker login -u ann -p {} ghcr.io",
                "curl -u ann:{} https://x.org",
                "ldapsearch -w {} -x",
            ),
            *("7z a -p{} x.7z", "unzip -P {} x.zip", "sqlcmd -S db -P {}", "openssl rsa -passin pass:{} -in x"),
            *(
                "password: >-\n  {}\nuser: ann",
                "secret: |\n    {}\n",
                "token: {}",
                "credentials: {}",
                "auth: {}",
                "session_id={}",
            ),
            *("Authorization: Bearer {}", "Authorization: Basic {}", "Authorization: token {}", "authorization: {}"),
            *(
                "X-Api-Key: {}",
                "Cookie: theme=dark; sid={}",
                "Set-Cookie: sid={}; HttpOnly",
                "curl -H 'Authorization: Bearer {}'",
            ),
            *(
                "https://x.org/?token={}&page=2",
                "https://x.org/?page=2&access_token={}",
                "https://ann:{}@x.org/",
                "https://{}@x.org",
            ),
            *(
                "Passwort: {}",
                "contraseña: {}",
                "senha={}",
                "пароль: {}",
                "密码：{}".replace("：", ":"),
                "hasło={}",
                "wachtwoord={}",
            ),
            *(
                "password = '{}'",
                "PASSWORD_PROD={}",
                "password2={}",
                "SMTP_PASS: {}",
                "ENCRYPTION_KEY={}",
                "signing-key={}",
            ),
            *(
                'my_secret[] = "{}";',
                "if password == '{}':",
                "MYSQL_ROOT_PASSWORD={}",
                "--set auth.password={}",
                "key_pass: {}",
            ),
            *(
                "echo {} | docker login --password-stdin; password={}".replace("{} |", "x |"),
                "pass={}",
                "Signature: {}",
            ),
        )
    ]
