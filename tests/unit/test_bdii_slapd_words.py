"""What slapd prints, as far as it belongs into a message."""

from bdii.slapd import configuration


def test_the_remark_about_threads_is_left_out() -> None:
    text = "slapd.conf: line 12: warning, threads=128 larger than twice; YMMV.\n\n  real   cause \n"
    assert configuration.messages(text) == ["real cause"]
