"""A thousand sentences without a secret: what people and tools write around commits, in several languages."""

import random
from collections.abc import Iterator

HEX = "0123456789abcdef"

TEMPLATES = (
    # Messages of commits.
    "fix({scope}): {verb} the {noun} when the {other} is empty",
    "feat: {verb} {noun} for {other}, see #{number}",
    "auth: {verb} expired sessions before the {noun}",
    "docs: explain how to rotate a token and where the password is stored",
    "Merge pull request #{number} from octo-org/{scope}-{verb}-{noun}",
    "Merge branch 'release/{version}' into main",
    'Revert "{verb} the {noun}"; This reverts commit {sha1}.',
    "(cherry picked from commit {sha1})",
    "chore(deps): bump actions/checkout from v3.{digit}.0 to v4.{digit}.1",
    "build: pin {package}@{version} and @types/node@{version}",
    "refactor: rename api_key_id to keyId and split token_count from the {noun}",
    "test: password strength must be checked before {verb} runs",
    "security: require at least 12 characters in a password; secrets are never logged",
    "perf: {verb} {noun} {digit}.{digit} times faster ({number} ms -> {digit} ms)",
    "Co-authored-by the {scope} team, reviewed in #{number}",
    # Commands.
    "git rebase -i {short}..HEAD && git push --force-with-lease origin feature/{scope}-{number}",
    "git diff --stat {sha1} {short} -- src/{scope}/{noun}.py",
    "docker pull ghcr.io/octo-org/{scope}@sha256:{sha256}",
    "docker run --rm -p 8080:80 nginx:{version}-alpine",
    "npm ci && npm run {verb} -- --token-file ./{noun}.txt",
    "pip install '{package}>={version}' --require-hashes --hash=sha256:{sha256}",
    "psql -h localhost -p 5432 -U app -c 'select count(*) from {noun}s'",
    "mysql -u root -p -h db.internal {noun}s",
    "kubectl get pod {scope}-7d9f8b6c5d-x2x9z -n {noun}",
    "curl -fsSL https://example.com/{scope}/v{version}/{noun}.tar.gz -o {noun}.tar.gz",
    "ssh -p 2222 build-host make {verb}",
    "cargo {verb} --features {scope},{noun} --target x86_64-unknown-linux-gnu",
    "pytest -q tests/{scope}/test_{noun}.py::test_{verb}_{other} -k 'not slow'",
    "terraform plan -var-file={scope}.tfvars -out={noun}.plan",
    "use --password-file instead of --password, and --no-auth only in tests",
    # Sentences of hooks.
    "Detect Private Key.....................................Passed",
    "detect-secrets: 0 findings in {number} files",
    "trailing-whitespace: {digit} of {number} files were changed",
    "src/{scope}/{noun}.py:{number}:{digit}: E501 line too long ({number} > 120)",
    "{number} passed, {digit} failed, {digit} skipped in {digit}.{digit}s",
    "pass: {number}, fail: {digit}, todo: {digit}",
    "error TS2345: Argument of type 'string' is not assignable to parameter of type 'Token'",
    "SyntaxError: Unexpected token = in JSON at position {number}",
    "unexpected token: expected an identifier after {noun}",
    "password: required field of {scope} is missing",
    "token: expired {digit} minutes ago, run {verb} again",
    "auth: none, tls: on, retries: {digit}",
    "warning: signature: cannot verify {noun}, no public key",
    "Signature: invalid for {package} {version}",
    "the secret: {noun}s are never compared with ==",
    "rule generic-api-key matched nothing in {number} commits",
    "sha512-{base64_64}== is the integrity of {package}",
    "go.sum: github.com/octo-org/{scope} v{version} h1:{base64_32}=",
    "The key fingerprint is SHA256:{base64_32}",
    "md5: {md5}  {noun}.iso",
    "{sha256}  dist/{package}-{version}-py3-none-any.whl",
    "run {uuid} of {scope} ended after {digit}m {digit}s",
    "request id {uuid}: 404 for https://example.com/{scope}/{noun}?page={digit}&sort=desc#{other}",
    "cache key: linux-x64-{scope}-{sha256}",
    "token_count={number} max_tokens={number} token_type=bearer",
    "password_min_length=12 password_policy=strict secret_name={scope}-{noun}",
    "use_auth=true, require_token=false, cookie_consent=yes, pass_rate=98%",
    "created index {short}..{short} 100644 in {digit} ms",
    "downloading https://files.example.org/packages/{scope}/{package}-{version}.tar.gz",
    "image logo@2x.png is larger than {number} kB",
    "password = getpass() and token = os.environ.get(name) are fine in {noun}.py",
    "password: ${{DB_PASSWORD}} is a reference, api_key=$API_KEY too",
    "export TOKEN=$(cat {noun}.txt) before you {verb}",
    "env: SECRET_KEY=${{{{ secrets.SECRET_KEY }}}} in ci.yml",
    "author: the {scope} team; primary_key=user_id, foreign_key=order_id",
    "2026-01-{day}T10:{day}:00Z {scope}[{number}]: {verb} {noun} took {number} ms",
    "tag v{version}-rc.{digit}+build.{number} of {package} is at {short}",
    "Basic authentication is disabled; bearer tokens replace it in {version}",
    "and/or, either/or, n/a, 24/7, km/h, tcp/ip, client/server and input/output are words",
    "class Abstract{scope_title}{noun_title}FactoryBean2 implements {noun_title}Repository",
    "migration 20260131{number}_{verb}_{noun}_{other} was applied",
    # Other languages.
    "Überprüfe das {noun}: das Passwort muss mindestens 12 Zeichen haben",
    "behebt #{number}: {noun} war leer, Kennwort: erforderlich",
    "corrige el {noun}: la contraseña debe tener {number} caracteres como mínimo",
    "el token: requerido por la versión {version}",
    "corrige le {noun} : le mot de passe est vérifié avant l’envoi",
    "aggiorna {package} alla versione {version} e verifica la firma",
    "corrige a senha: obrigatória no formulário de {noun}",
    "исправлено: пароль должен быть длиннее {number} символов",
    "修复 {noun}：密码 长度至少 {number} 位",
    "{noun} を更新、パスワード は 12 文字以上",
    "zaktualizuj {noun}; hasło musi mieć {number} znaków",
    "wijzig {noun}: het wachtwoord moet langer zijn dan {number} tekens",
)
WORDS = {
    "scope": ("parser", "login", "ui", "api", "billing", "hub", "cache", "docs", "metrics", "search"),
    "verb": ("handle", "build", "test", "refresh", "validate", "remove", "sort", "retry", "format", "deploy"),
    "noun": ("index", "session", "report", "schema", "invoice", "queue", "window", "user", "header", "budget"),
    "other": ("name", "tenant", "cursor", "date", "label", "branch", "limit", "page"),
    "package": ("httpx", "react", "left-pad", "numpy", "serde", "express", "psycopg", "rails"),
}


def ordinary_sentences(count: int, seed: int) -> Iterator[str]:
    source = random.Random(seed)  # noqa: S311
    for number in range(count):
        words = {name: source.choice(choices) for name, choices in WORDS.items()}
        words |= {"scope_title": words["scope"].title(), "noun_title": words["noun"].title()}
        words |= {
            name: "".join(source.choices(HEX, k=length))
            for name, length in (("sha1", 40), ("sha256", 64), ("md5", 32), ("short", source.choice((7, 8, 10, 12))))
        }
        words["uuid"] = "-".join("".join(source.choices(HEX, k=length)) for length in (8, 4, 4, 4, 12))
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        words |= {
            "base64_64": "".join(source.choices(alphabet, k=86)),
            "base64_32": "".join(source.choices(alphabet, k=43)),
        }
        words |= {
            "number": str(source.randrange(20, 9999)),
            "digit": str(source.randrange(1, 9)),
            "day": f"{source.randrange(10, 29)}",
            "version": f"{source.randrange(30)}.{source.randrange(20)}.{source.randrange(20)}",
        }
        yield TEMPLATES[number % len(TEMPLATES)].format(**words)
