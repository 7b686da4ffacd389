"""Secrets by their form and by their name, against the rules of detect-secrets; ordinary text stays as it is."""

import time
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import detect_secrets.plugins
import pytest
from detect_secrets.plugins.base import BasePlugin

from opskpi.hooks.scrubbing import scrub
from support.fake_secrets import ALNUM, formats, maker, named_values
from support.ordinary_sentences import ordinary_sentences

# These judge by randomness, by quotes or by words around, and find as much where there is no secret.
NO_FORMAT = {"HexHighEntropyString", "Base64HighEntropyString", "IPPublicDetector", "KeywordDetector"}
SEEDS = range(5)


def plugins() -> Iterator[Any]:
    """The rules of detect-secrets that know a format."""
    for module in iter_modules(detect_secrets.plugins.__path__):
        for found in vars(import_module(f"detect_secrets.plugins.{module.name}")).values():
            is_one = (
                isinstance(found, type) and issubclass(found, BasePlugin) and found.__module__.endswith(module.name)
            )
            if is_one and not getattr(found, "__abstractmethods__", None) and found.__name__ not in NO_FORMAT:
                yield found()


def found_by(plugin: Any, text: str) -> set[str]:
    return {found for line in text.splitlines() for found in plugin.analyze_string(line)}


@pytest.mark.parametrize("around", ["{}", "found {} in it", "x: '{}'", "({}).", "\n{}\n"])
@pytest.mark.parametrize("seed", SEEDS)
def test_of_sixty_formats_none_stays_in_text(seed: int, around: str) -> None:
    for name, (text, secret) in formats(seed).items():
        cleaned = scrub(around.format(text), 8000)
        assert not [part for part in secret.split("\n") if part in cleaned], (name, cleaned)
        assert scrub(cleaned, 8000) == cleaned, name


def test_what_detect_secrets_finds_is_not_found_afterwards() -> None:
    found = dict.fromkeys((plugin.secret_type for plugin in plugins()), 0)
    assert len(found) > 20
    for seed in SEEDS:
        for text, _ in formats(seed).values():
            for plugin in plugins():
                if found_by(plugin, text):
                    found[plugin.secret_type] += 1
                    assert not found_by(plugin, scrub(text, 8000)), (plugin.secret_type, text)
    assert [kind for kind, count in found.items() if not count] == [], "a rule that no format stands for"


@pytest.mark.parametrize("secret", ["hunter2", "korrekt9pferd", "Tr0ub4dor", "s3cr3t!x#y", maker(7)(ALNUM, 12)])
def test_a_value_whose_name_says_secret_does_not_stay(secret: str) -> None:
    for text in named_values(secret):
        cleaned = scrub(text, 500)
        assert secret not in cleaned, text
        assert scrub(cleaned, 500) == cleaned, text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "password: hunterx",
            "DB_PASS=hunterx",
            "SMTP_PASSWORD=hunterx",
            '{"password":"hunterx"}',
            "Pwd=hunterx;User=sa",
        ),
        *(
            "password:\n  hunterx\nuser: ann",
            "db:\n  secret: |\n    hunterx\n    more\n",
            "<password>hunterx</password>",
        ),
        *(
            "- name: DB_PASSWORD\n  value: hunterx",
            '{"name": "API_KEY", "value": "hunterx"}',
            "sshpass -p hunterx ssh x",
        ),
        *(
            "machine x login ann password hunterx",
            "psql 'host=x password=hunterx'",
            "mysql -u ann -phunterx",
            "7z x -phunterx a",
        ),
        *(
            "https://ann:hunterx@x.org/a",
            "redis://:hunterx@cache:6379/0",
            "Cookie: sid=hunterx",
            "--password hunterx --user ann",
        ),
    ],
)
def test_a_value_of_letters_only_does_not_stay_either(text: str) -> None:
    assert "hunterx" not in scrub(text, 500)


@pytest.mark.parametrize(
    "text",
    [
        r"{\"token\": \"hunter22\", \"user\": \"ann\"}",
        r'"body": "{\"password\":\"hunter22\"}"',
        r'{\\"apiKey\\": \\"hunter22\\"}',
        "passwords: [first1, hunter22]",
        'tokens=["first1", "hunter22"]',
        "API_KEYS=first11,hunter22",
        "ENV DB_PASSWORD hunter22",
        "setx API_TOKEN hunter22",
        "set DB_PASSWORD hunter22",
        'setPassword("hunter22")',
        "password('hunter22')",
        '<add key="Password" value="hunter22" />',
        "the password is: hunter22",
        "a=1&password%3Dhunter22%26b",
        "--password 'hunter twenty hunter22'",
        "htpasswd -bc users ann hunter22",
        "openssl enc -k hunter22 -in a",
        "jdbc:oracle:thin:scott/hunter22@db:1521:x",
        "sqlplus -S scott/hunter22@db",
        "token hunter220123456789abcdef",
    ],
)
def test_a_value_does_not_stay_however_its_name_is_written_around_it(text: str) -> None:
    cleaned = scrub(text, 500)
    assert "hunter22" not in cleaned
    assert scrub(cleaned, 500) == cleaned


@pytest.mark.parametrize("seed", SEEDS)
def test_of_a_thousand_ordinary_sentences_every_one_stays_as_it_is(seed: int) -> None:
    changed = {text: cleaned for text in ordinary_sentences(1000, seed) if (cleaned := scrub(text, 1000)) != text}
    assert changed == {}


ORDINARY = r"""Add password reset flow
fix: password reset: send mail again
Password: enter the new one twice
implement OAuth token refresh; token: string is now Token
chore: bump secret-scanner to 2.1
update key bindings: ctrl-k opens the palette
api key rotation is documented in docs/keys.md
keyboard: Enter submits; key: Escape closes
monkey-patch removed, passing tests: 12
passthrough=true compass=north bypass: none
author: Ann Lee
authentication: basic, authorization: required
session: user 12 logged out
signature mismatch for release v2.1.0
Cookie: banner is shown twice
feat(auth): add SSO
auth=oauth2 session=false
tokenizer=bert-base-uncased tokens=4096
primary_key=True
password_hash column added
the secret is 3 months old
Secret: see vault path kv/app
passed=12 failed=0
pw: 3 of 4
OTP: feature flag enabled
token = self.advance()
token=next(tokens)
password = forms.CharField(widget=forms.PasswordInput)
secret_key = settings.SECRET_KEY
--password is deprecated, pass --password-file
run with --token and --api-key flags
use `--auth basic` for old servers
curl -u user https://example.com/x
docker login ghcr.io failed
docker run -p 127.0.0.1:5432:5432 postgres:16
ssh-keygen -t ed25519 -C build
redis-cli -p 6379 ping
mysql -P 3306 -h db app
mysql -e 'select 1' app
mysqldump --single-transaction app
sk-learn-extra==0.3.0 and npm_config_registry, pypi-publish, hf_transfer
npm_config_cache=.cache npm_package_version=1.2.3
eslint-plugin-react-hooks@4.6.0
@typescript-eslint/no-unused-vars is off
glob glitch-free gh-pages
gl_matrix and gltf-pipeline, shp2json
AC and SK are initials; APPLE pie
APPLICATION_PASSWORDLESS_LOGIN enabled
test_password_is_hashed PASSED
tests/auth/test_token.py::test_refresh_token PASSED
key=value pairs are sorted
cache-key=linux-node-20-3f2a1b9c0d4e5f60718293a4b5c6d7e8f9012345
HEAD is now at 3f2a1b9 fix
https://example.com/a/b?id=123&page=2#top
http://localhost:8080/health returned 200
uses: octo-org/repo/.github/workflows/ci.yml@main
v1.2.3-alpha.1+exp.sha.5114f85
manylinux_2_17_x86_64.manylinux2014_x86_64.whl
opskpi-0.1.0-cp311-cp311-manylinux_2_17_x86_64.whl
ERR_MODULE_NOT_FOUND at file:line:col
eyJ is how JWTs begin
CVE-2024-12345 GHSA-abcd-1234-efgh
arn:aws:iam::123456789012:role/deploy
projects/my-proj-123456/locations/europe-west1
com.example.app.MainActivity$InnerClass1
std::unordered_map<std::string, int64_t>
2026-01-31T12:00:00.000Z INFO [main] started in 3.2s
Signed-off-by and Reviewed-by trailers are required
passwd: password unchanged
kennwort: erforderlich
Token: ungültig
mot de passe: obligatoire
i18n: add 12 strings for es-419 and zh-Hans
README: describe `opskpi hook install --hub URL --org UUID --key-file PATH`
Traceback: KeyError: 'session_id'
KeyError: 'api_key'
assert response.json()["token"] == expected
if password == confirm: return
token != null && token.length > 0
auth: bearer; cookie: none
"auth": "none", "token": null
password: "", secret: ''
"type": "password", "name": "secret"
<input type="password" name="pwd" autocomplete="off">
credentials: include
credentials=same-origin
the session: 45 min; signature: 2 pages
sig: SIGTERM received
SIGKILL sent to 1234
pass 1/2: 3 files
Deploy key: read-only
license key: MIT
db_key: id
client_key: customer_number
Session=default
access key: alt-shift-p
hotkey=F12 shortkey: Ctrl+Shift+P
key: Ctrl+Shift+P opens it
basic layout2column grid
Bearer of bad news2day
digest of changes
hash: blake3
tsconfig.json(12,3): error TS1005
sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
e3b0c44298fc1c149afbf4c8996fb92427ae41e4 is the first bad commit
id 0f8fad5b-d9cb-469f-a165-70867728950e
trace 4bf92f3577b34da6a3ce929d0e0e4736
zstd -19 --ultra --long=31
cron: 0 3 * * 1
a/b/c and ../x and ./y
regex ^[a-z0-9]+$ matches
C++17, C#, F#; node>=18 <21
10.0.0.1:5432 and [::1]:80
SELECT * FROM users WHERE token IS NOT NULL
git push --no-verify
GET /api/v1/telemetry 200
tokens: [CLS] and [SEP], max_tokens: 16384, tokens: 128k/200k
secrets: inherit
passwords: 12 rotated, API keys: 3 expired
set token expiry to 30m and password policy v2 live
ENV API_TOKEN missing, ARG token type
getToken("refresh") and require_password("admin")
signature: sha256 and signatures: [rsa, ed25519]
PWD=build
password: [A-Za-z0-9]{8,}
{\"token_type\": \"bearer\", \"password\": null}
key="title" value="x", sessions=12
"""


@pytest.mark.parametrize("text", ORDINARY.splitlines())
def test_text_about_secrets_stays_as_it_is(text: str) -> None:
    assert scrub(text, 500) == text


HOSTILE = [
    *(
        "a",
        "/",
        "a@",
        "pass",
        "password ",
        "password=",
        "password: ",
        "--password ",
        "mysql -p ",
        "password='",
        "_",
        "a.",
    ),
    *(
        "-----BEGIN PRIVATE " + "KEY-----",
        "password: |\n ",
        "0a",
        "http://",
        "eyJ.",
        "key",
        "PuTTY-User-" + "Key-File-2",
        "secret_",
    ),
    *(
        "curl -u a:",
        "password[",
        "bearer ",
        "password=${",
        "C:\\a ",
        "\\\\",
        "xox",
        " /a",
        "~/",
        "cookie: a=b ",
        "name: a value: ",
    ),
    *("password" + " " * 100, "login a password ", "<password>", "a-" * 40, "sha512-", "%40a.", "9:", "token\n  "),
    *("password\\", "password=[", "tokens=a,", 'password("', "set a_key ", "sqlplus a/", "htpasswd -b a ", "key value"),
]


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("end", ["", "!", "@a.b", "'"])
def test_no_hostile_line_takes_long(piece: str, end: str) -> None:
    started = time.process_time()
    scrub((piece * 8192)[:8190] + end, 100)
    assert time.process_time() - started < 1.0
