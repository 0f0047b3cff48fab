"""What h11 takes streams of requests for: the oracle of tests/sim/oracle.rs.

Each stream comes as four bytes of length and itself. Each answer is a line: where the
requests end that h11 takes, and then `refused`, `over` or `waits`.
"""
import struct
import sys

import h11


def read(stream):
    ends = []
    connection = h11.Connection(h11.SERVER)
    if stream:  # nothing would be the end
        connection.receive_data(stream)
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return ends, "refused"
        if event is h11.NEED_DATA:
            return ends, "waits"
        if event is h11.PAUSED:
            return ends, "over"
        if type(event) is h11.EndOfMessage:
            ends.append(len(stream) - len(connection.trailing_data[0]))
            # A refusal, so that neither CONNECT nor Upgrade changes the protocol.
            connection.send(h11.Response(status_code=400, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is h11.MUST_CLOSE or connection.their_state is h11.MUST_CLOSE:
                return ends, "over"
            connection.start_next_cycle()


while True:
    length = sys.stdin.buffer.read(4)
    if len(length) < 4:
        break
    ends, verdict = read(sys.stdin.buffer.read(struct.unpack(">I", length)[0]))
    print(*ends, verdict, flush=True)
