"""Tags as versions, as slsa-verifier's --source-versioned-tag reads them.

Source: `VerifyVersionedTag` in github.com/slsa-framework/slsa-verifier/v2/verifiers/utils, and https://semver.org.
"""

import re
from dataclasses import dataclass

_NUMBER = r"(0|[1-9][0-9]{0,17})"
_WORD = r"[0-9A-Za-z-]{1,64}"
_VERSION = re.compile(
    rf"(v?){_NUMBER}(?:\.{_NUMBER}(?:\.{_NUMBER}(?:-({_WORD}(?:\.{_WORD}){{0,16}}))?(?:\+{_WORD}(?:\.{_WORD}){{0,16}})?)?)?"
)


@dataclass(frozen=True, slots=True)
class Version:
    """A semantic version, minor and patch None where they were left out; build metadata is dropped."""

    prefix: str
    major: str
    minor: str | None
    patch: str | None
    prerelease: str | None


def version(tag: str) -> Version | None:
    """The version that a tag names, such as v1, v1.2, v1.2.3-rc.1; None when it names none."""
    if not (match := _VERSION.fullmatch(tag)):
        return None
    prerelease = match[5]
    # "Numeric identifiers MUST NOT include leading zeroes."
    if prerelease and any(word.isdigit() and word != "0" and word[0] == "0" for word in prerelease.split(".")):
        return None
    return Version(match[1], match[2], match[3], match[4], prerelease)


def is_version_of(expected: Version, tag: Version) -> bool:
    """Whether a tag is one of the versions that `expected` stands for.

    v14 stands for every v14.x.y, v14.2 for every v14.2.y; a whole version only for itself. What the tag leaves out is
    0, so that the tag v14 is v14.0.0 and no v14.1.
    """
    if (expected.prefix, expected.major) != (tag.prefix, tag.major):
        return False
    if expected.minor is not None and expected.minor != (tag.minor or "0"):
        return False
    if expected.patch is None:
        return True
    return (expected.patch, expected.prerelease) == (tag.patch or "0", tag.prerelease)
