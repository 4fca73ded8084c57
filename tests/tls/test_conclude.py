"""What a walk over hosts that would all not do comes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.message.outcome import Cause, Step
from requiretls_mta.message.reply import Reply
from requiretls_mta.tls.conclude import conclude


def cause(step, *, temporary=False, reply=None, host="mx.test"):
    return Cause(host=host, step=step, detail="x", temporary=temporary, reply=reply)


@pytest.mark.parametrize(
    ("causes", "code", "enhanced"),
    [
        ([cause(Step.STARTTLS)], 550, "5.7.10"),  # C12
        ([cause(Step.AUTHENTICATE)], 550, "5.7.10"),  # C13
        ([cause(Step.LOOKUP)], 550, "5.7.10"),  # C05
        ([cause(Step.REQUIRETLS)], 550, "5.7.30"),  # C11
        ([cause(Step.STARTTLS), cause(Step.REQUIRETLS, host="b")], 550, "5.7.30"),
        ([cause(Step.REQUIRETLS), cause(Step.CONNECT, temporary=True, host="b")], 451, "4.4.1"),  # C14
        ([cause(Step.REQUIRETLS), cause(Step.CONNECT, temporary=True)], 550, "5.7.30"),  # its other address
        ([cause(Step.STARTTLS, temporary=True)], 451, "4.7.5"),
        ([cause(Step.CONNECT, temporary=True, reply=Reply(421, "4.3.2", "busy"))], 421, "4.3.2"),
        ([cause(Step.CONNECT, reply=Reply(554, "5.7.1", "no"))], 554, "5.7.1"),
        ([cause(Step.LOOKUP, reply=Reply(550, "5.4.4", "no address"))], 550, "5.4.4"),
    ],
)
def test_what_all_causes_come_to(causes, code, enhanced):
    """5.7.30 where only the keyword lacked, 5.7.10 elsewhere; one temporary element keeps the message."""
    reply = conclude(causes)
    assert (reply.code, reply.enhanced) == (code, enhanced)
    assert causes[0].host in reply.text or causes[-1].host in reply.text


CAUSES = st.lists(
    st.builds(
        cause,
        st.sampled_from([step for step in Step if step is not Step.TRANSACTION]),
        temporary=st.booleans(),
        reply=st.none(),
        host=st.sampled_from("abc"),
    ),
    min_size=1,
    max_size=6,
)


@given(CAUSES)
def test_a_host_that_was_not_heard_is_never_a_permanent_refusal(causes):
    """No definite no of one host speaks for another; and where all have said no, nobody waits."""
    reply = conclude(causes)
    definite = {one.host for one in causes if not one.temporary}
    if {one.host for one in causes} - definite:
        assert reply.is_temporary, causes
    if all(not one.temporary or (one.step is Step.CONNECT and one.host in definite) for one in causes):
        assert reply.is_permanent, causes
    keyword = any(one.step is Step.REQUIRETLS and not one.temporary for one in causes)
    assert reply.is_temporary or (reply.enhanced == "5.7.30") == keyword, causes
