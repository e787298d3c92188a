"""What a user may call a source, and that no credential gets out of an address."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehybrid.errors import NotFoundError, UsageError
from edgehybrid.streamer.address import parse


@pytest.mark.parametrize(
    ("source", "kind", "target"),
    [
        ("test://", "test", "test://"),
        ("csi://1", "csi", "1"),
        ("0", "v4l2", "/dev/video0"),
        ("v4l2:///dev/video2", "v4l2", "/dev/video2"),
        ("v4l2://1", "v4l2", "/dev/video1"),
        ("v4l2:///dev/v4l/by-id/usb-cam", "v4l2", "/dev/v4l/by-id/usb-cam"),
        ("/dev/video1", "v4l2", "/dev/video1"),
        ("rtsp://cam:8554/main", "rtsp", "rtsp://cam:8554/main"),
        ("RTSPS://cam/main", "rtsp", "RTSPS://cam/main"),
        ("http://cam/video.mjpeg", "http", "http://cam/video.mjpeg"),
        ("https://cam/video.mjpeg", "http", "https://cam/video.mjpeg"),
    ],
)
def test_every_form_is_read(source: str, kind: str, target: str) -> None:
    address = parse(source)
    assert (address.kind, address.target, address.is_live) == (kind, target, True)


def test_files_and_folders_are_told_apart(tmp_path: Path) -> None:
    clip = tmp_path / "a clip: 1.mp4"
    clip.write_bytes(b"x")
    for source in (str(clip), f"file://{clip}", f"file://{tmp_path}/a%20clip:%201.mp4"):
        assert (parse(source).kind, parse(source).target) == ("clip", str(clip))
    assert parse(f"file://{tmp_path}").kind == "pictures"
    assert not parse(str(clip)).is_live


SENSELESS = ["ftp://x", "csi://", "csi://left", "csi://٣", "v4l2://", "v4l2://front", "v4l2:///etc/x", "rtsp://"]


@pytest.mark.parametrize("source", [*SENSELESS, "rtsp://cam:port/", "test://?color=1"])
def test_what_makes_no_sense_is_refused(source: str) -> None:
    with pytest.raises(UsageError):
        parse(source)


@pytest.mark.parametrize("source", ["", "file://", "²"])
def test_nothing_is_not_the_folder_one_is_in(source: str) -> None:
    with pytest.raises(NotFoundError):
        parse(source)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(NotFoundError, match=r"gone\.mp4"):
        parse("gone.mp4")


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://admin:s3cret@cam:554/main", "rtsp://cam:554/main"),
        ("rtsp://admin:p%40ss@[fe80::1]:554/main", "rtsp://[fe80::1]:554/main"),
        ("http://cam/v.mjpeg?user=admin&pwd=s3cret", "http://cam/v.mjpeg?***"),
        ("rtsp://cam/user=admin&password=s3cret&channel=1", "rtsp://cam/user=***&password=***&channel=1"),
        ("http://cam/a;camera_user=admin;camera_pwd=s3cret", "http://cam/a;camera_user=***;camera_pwd=***"),
    ],
)
def test_credentials_are_not_shown(source: str, shown: str) -> None:
    address = parse(source)
    assert address.shown == shown
    assert "s3cret" not in repr(address)
    assert address.clean(f"cannot open {source}: 401\n \x1bat all") == f"cannot open {shown}: 401 at all"


@pytest.mark.parametrize("sign", ["/", "?", "#", "@x/", "/@"])
@pytest.mark.parametrize("begin", ["rtsp://", "http://", "rtsp:/", "rtsp:"])
@pytest.mark.parametrize("half", ["s3cret", "5432"])
def test_a_password_that_breaks_its_address_is_not_told(sign: str, begin: str, half: str) -> None:
    with pytest.raises((UsageError, NotFoundError)) as caught:
        parse(f"{begin}admin:{half}{sign}1234@cam/main")
    told = str(caught.value) + repr(caught.value.__cause__)
    assert half not in told
    assert "admin" not in told


def test_a_login_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEHYBRID_LOGIN", "admin:s3cret/@:")
    address = parse("rtsp://cam:554/main")
    assert (address.target, address.shown) == ("rtsp://admin:s3cret%2F%40%3A@cam:554/main", "rtsp://cam:554/main")
    assert parse("http://own:pw@cam/").target == "http://own:pw@cam/"
    assert address.clean("refused admin with s3cret/@:") == "refused *** with ***"


NAMES = st.text("abcdefghijkmnopqrstuvwxyzABCDEFGH0123456789%!$*+~._-", min_size=12, max_size=20).filter(
    lambda text: "%" not in text
)


@given(user=NAMES, password=NAMES)
def test_no_message_about_an_address_tells_its_credentials(user: str, password: str) -> None:
    address = parse(f"rtsp://{user}:{password}@cam/main")
    said = address.clean(f"rtsp://{user}:{password}@cam/main?x refused {user} with {password} at //{user}@cam")
    assert user not in said
    assert password not in said
    assert user not in address.shown + repr(address)
