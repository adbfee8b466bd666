"""What a browser tells about its device, and what that means for the file."""

import pytest

from certbob.devices import Encoding, EncodingPolicy, Platform, looks_old, platform_of

WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
SAFARI = "AppleWebKit/605.1.15 (KHTML, like Gecko)"

# Name: user agent, platform, whether it is a positive sign of age.
BROWSERS = {
    "Windows 11, Chrome": (
        f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/140.0.0.0 Safari/537.36",
        Platform.WINDOWS,
        False,
    ),
    "Windows 11, Edge": (
        f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0",
        Platform.WINDOWS,
        False,
    ),
    "Windows 10, Firefox": (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0",
        Platform.WINDOWS,
        False,
    ),
    "Windows 7, Firefox": (
        "Mozilla/5.0 (Windows NT 6.1; Win64; x64; rv:115.0) Gecko/20100101 Firefox/115.0",
        Platform.WINDOWS,
        True,
    ),
    "Windows 8.1, Internet Explorer": (
        "Mozilla/5.0 (Windows NT 6.3; Trident/7.0; rv:11.0) like Gecko",
        Platform.WINDOWS,
        True,
    ),
    "macOS 26, Safari": (
        f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {SAFARI} Version/26.0 Safari/605.1.15",
        Platform.MAC,
        False,
    ),
    "macOS 15, Safari": (
        f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {SAFARI} Version/18.3 Safari/605.1.15",
        Platform.MAC,
        False,
    ),
    "macOS 14, Safari": (
        f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {SAFARI} Version/17.6 Safari/605.1.15",
        Platform.MAC,
        True,
    ),
    "macOS 10.13, Safari": (
        f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_13_6) {SAFARI} Version/9.1.2 Safari/605.1.15",
        Platform.MAC,
        True,
    ),
    "Mac, Chrome hides the system's version": (
        f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {WEBKIT} Chrome/140.0.0.0 Safari/537.36",
        Platform.MAC,
        False,
    ),
    "Mac, Firefox": (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:140.0) Gecko/20100101 Firefox/140.0",
        Platform.MAC,
        False,
    ),
    "iOS 26, which says 18": (
        f"Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) {SAFARI} Version/26.0 Mobile/15E148 "
        "Safari/604.1",
        Platform.IOS,
        False,
    ),
    "iOS 17": (
        f"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) {SAFARI} Version/17.5 Mobile/15E148 "
        "Safari/604.1",
        Platform.IOS,
        True,
    ),
    "iOS 9": (
        f"Mozilla/5.0 (iPhone; CPU iPhone OS 9_3_5 like Mac OS X) {SAFARI} Version/9.0 Mobile/13G36 "
        "Safari/601.1",
        Platform.IOS,
        True,
    ),
    "iPadOS 18": (
        f"Mozilla/5.0 (iPad; CPU OS 18_1 like Mac OS X) {SAFARI} Version/18.1 Mobile/15E148 Safari/604.1",
        Platform.IOS,
        False,
    ),
    "iPadOS 16": (
        f"Mozilla/5.0 (iPad; CPU OS 16_7 like Mac OS X) {SAFARI} Version/16.6 Mobile/15E148 Safari/604.1",
        Platform.IOS,
        True,
    ),
    "Android, Chrome hides the version": (
        f"Mozilla/5.0 (Linux; Android 10; K) {WEBKIT} Chrome/140.0.0.0 Mobile Safari/537.36",
        Platform.ANDROID,
        False,
    ),
    "Android 14, Firefox": (
        "Mozilla/5.0 (Android 14; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0",
        Platform.ANDROID,
        False,
    ),
    "Android 9, Firefox": (
        "Mozilla/5.0 (Android 9; Mobile; rv:115.0) Gecko/115.0 Firefox/115.0",
        Platform.ANDROID,
        True,
    ),
    "Android 8.1": (
        f"Mozilla/5.0 (Linux; Android 8.1.0; SM-J530F) {WEBKIT} Chrome/90.0.4430.210 Mobile Safari/537.36",
        Platform.ANDROID,
        True,
    ),
    "Android 4": (
        f"Mozilla/5.0 (Linux; U; Android 4.4.2; de-de) {SAFARI} Version/4.0 Mobile Safari/534.30",
        Platform.ANDROID,
        True,
    ),
    "ChromeOS": (
        f"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) {WEBKIT} Chrome/140.0.0.0 Safari/537.36",
        Platform.CHROMEOS,
        False,
    ),
    "Linux, Firefox": (
        "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        Platform.LINUX,
        False,
    ),
    "BSD": (
        "Mozilla/5.0 (X11; FreeBSD amd64; rv:140.0) Gecko/20100101 Firefox/140.0",
        Platform.LINUX,
        False,
    ),
    "curl": ("curl/8.14.1", Platform.OTHER, False),
    "nothing": ("", Platform.OTHER, False),
}


@pytest.mark.parametrize(("agent", "platform", "old"), BROWSERS.values(), ids=BROWSERS.keys())
def test_a_browser_tells_its_platform_and_age(agent: str, platform: Platform, old: bool) -> None:
    assert (platform_of(agent), looks_old(agent)) == (platform, old)


def test_every_platform_has_words_for_people() -> None:
    assert len({platform.label for platform in Platform}) == len(Platform)
    assert len({platform.noun for platform in Platform}) == len(Platform)


@pytest.mark.parametrize(
    ("policy", "older", "encoding"),
    [
        (EncodingPolicy.ASK, False, Encoding.MODERN),
        (EncodingPolicy.ASK, True, Encoding.COMPATIBLE),
        (EncodingPolicy.MODERN, True, Encoding.MODERN),
        (EncodingPolicy.COMPATIBLE, False, Encoding.COMPATIBLE),
    ],
)
def test_the_operator_decides_whether_the_device_does(
    policy: EncodingPolicy, older: bool, encoding: Encoding
) -> None:
    assert policy.encoding(older=older) is encoding
