"""What a certificate is for. Platform and age decide the encoding of the file and what is explained."""

import re
from dataclasses import dataclass
from enum import StrEnum

from certbob.errors import UnfitName
from certbob.identity import MAX_DEVICE_NAME, fit_device_name


class Platform(StrEnum):
    WINDOWS = "windows"
    MAC = "mac"
    IOS = "ios"
    ANDROID = "android"
    CHROMEOS = "chromeos"
    LINUX = "linux"
    OTHER = "other"

    @property
    def label(self) -> str:
        return {
            Platform.WINDOWS: "Windows",
            Platform.MAC: "Mac",
            Platform.IOS: "iPhone or iPad",
            Platform.ANDROID: "Android",
            Platform.CHROMEOS: "ChromeOS",
            Platform.LINUX: "Linux or Firefox",
            Platform.OTHER: "Something else",
        }[self]

    @property
    def noun(self) -> str:
        """For the suggested name of a device: `Ada's Windows PC`."""
        return {
            Platform.WINDOWS: "Windows PC",
            Platform.MAC: "Mac",
            Platform.IOS: "iPhone",
            Platform.ANDROID: "Android phone",
            Platform.CHROMEOS: "Chromebook",
            Platform.LINUX: "Linux computer",
            Platform.OTHER: "device",
        }[self]


class Encoding(StrEnum):
    """How the file is encrypted. There are no mixed forms: they open nowhere more and fail in more places."""

    MODERN = "modern"
    COMPATIBLE = "compatible"


class EncodingPolicy(StrEnum):
    """`[pkcs12] encoding`: ask the person whether the device is older, or always the same."""

    ASK = "ask"
    MODERN = "modern"
    COMPATIBLE = "compatible"

    def encoding(self, *, older: bool) -> Encoding:
        if self is EncodingPolicy.ASK:
            return Encoding.COMPATIBLE if older else Encoding.MODERN
        return Encoding(self.value)


@dataclass(frozen=True, slots=True)
class Device:
    """`name` was checked by `identity.fit_device_name`; `older`: it cannot read the modern encoding."""

    platform: Platform
    name: str
    older: bool


# The order matters: Android says Linux, iPads say Macintosh or like Mac OS X, ChromeOS says X11.
_PLATFORM_SIGNS = (
    (re.compile(r"iPhone|iPad|iPod"), Platform.IOS),
    (re.compile(r"Android"), Platform.ANDROID),
    (re.compile(r"CrOS"), Platform.CHROMEOS),
    (re.compile(r"Windows"), Platform.WINDOWS),
    (re.compile(r"Macintosh|Mac OS X"), Platform.MAC),
    (re.compile(r"Linux|X11"), Platform.LINUX),
)

# Only positive signs: a current system hides its version ("Android 10; K", "Mac OS X 10_15_7", "NT 10.0").
_OLD_SIGNS = (
    re.compile(r"Windows NT 6\."),
    re.compile(r"(?:iPhone|CPU) OS (?:[1-9]|1[0-7])_"),
    re.compile(r"Android [4-9](?:\.|;|\))"),
    re.compile(r"Macintosh.* Version/(?:[1-9]|1[0-7])\..*Safari/"),
)


def suggested_name(owner: str, platform: Platform) -> str:
    """A name for somebody's device, such as `Ada's Windows PC`; fit for `identity.fit_device_name`."""
    whose = f"{owner.split(' ')[0]}'s"
    try:
        fit_device_name(whose)
    except UnfitName:
        whose = "My"
    return f"{whose} {platform.noun}"[:MAX_DEVICE_NAME]


def platform_of(user_agent: str) -> Platform:
    """The platform that a browser's user agent names, else OTHER."""
    return next((platform for sign, platform in _PLATFORM_SIGNS if sign.search(user_agent)), Platform.OTHER)


def looks_old(user_agent: str) -> bool:
    """Whether the user agent positively names a system that cannot read the modern encoding."""
    return any(sign.search(user_agent) for sign in _OLD_SIGNS)
