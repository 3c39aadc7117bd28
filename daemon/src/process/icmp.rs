//! ICMP and ICMPv6 packets: echo requests encoded, their answers decoded. Pure.

const ECHO_REQUEST: [u8; 2] = [8, 128];
const ECHO_REPLY: [u8; 2] = [0, 129];
/// Destination unreachable, packet too big (IPv6 only), time exceeded, parameter problem.
const ERRORS_V4: [u8; 3] = [3, 11, 12];
const ERRORS_V6: [u8; 4] = [1, 2, 3, 4];

/// Length of an ICMP header in bytes.
const HEADER: usize = 8;

/// Answer to an echo request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Echo reply; in IPv4 with the time to live of its header.
    Reply { seq: u16, ttl: Option<u8> },
    /// Error of a router, or of the kernel itself: the request will not arrive.
    Error { seq: u16, reason: &'static str },
}

/// Values that all requests of a ping have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct EchoId {
    pub(super) v6: bool,
    pub(super) ident: u16,
    pub(super) cookie: [u8; 8],
}

impl EchoId {
    /// Encodes an echo request with `size` bytes of payload.
    pub(super) fn encode_request(&self, seq: u16, size: usize) -> Vec<u8> {
        let mut packet = vec![0; HEADER + size];
        packet[0] = ECHO_REQUEST[usize::from(self.v6)];
        packet[4..6].copy_from_slice(&self.ident.to_be_bytes());
        packet[6..8].copy_from_slice(&seq.to_be_bytes());
        for (byte, value) in packet[HEADER..]
            .iter_mut()
            .zip(self.cookie.iter().copied().chain((8..=255).cycle()))
        {
            *byte = value;
        }
        // In IPv6 the checksum covers the addresses too: there the kernel fills it in.
        if !self.v6 {
            let sum = checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    /// Decodes a packet of a raw socket: an IPv4 packet with its header, or an ICMPv6 message without
    /// one (raw(7)). Returns `None` if it answers no request of this ping.
    pub(super) fn decode(&self, received: &[u8]) -> Option<Answer> {
        if self.v6 {
            self.decode_message(received, None)
        } else {
            self.decode_message(skip_v4(received)?, received.get(8).copied())
        }
    }

    fn decode_message(&self, message: &[u8], ttl: Option<u8>) -> Option<Answer> {
        let (&kind, &code) = (message.first()?, message.get(1)?);
        if kind == ECHO_REPLY[usize::from(self.v6)] {
            let seq = self.sequence(message)?;
            return self
                .has_cookie(message.get(HEADER..)?)
                .then_some(Answer::Reply { seq, ttl });
        }
        let reason = if self.v6 {
            reason_v6(kind, code)
        } else {
            reason_v4(kind, code)
        }?;
        let quoted = message.get(HEADER..)?;
        let request = if self.v6 {
            skip_v6(quoted)
        } else {
            skip_v4(quoted)
        }?;
        if *request.first()? != ECHO_REQUEST[usize::from(self.v6)] {
            return None;
        }
        Some(Answer::Error {
            seq: self.sequence(request)?,
            reason,
        })
    }

    fn sequence(&self, message: &[u8]) -> Option<u16> {
        let ident = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
        let seq = u16::from_be_bytes(message.get(6..8)?.try_into().ok()?);
        (ident == self.ident).then_some(seq)
    }

    fn has_cookie(&self, payload: &[u8]) -> bool {
        // A short payload has only the beginning of the cookie.
        payload.iter().zip(self.cookie).all(|(a, b)| *a == b)
    }
}

fn skip_v4(packet: &[u8]) -> Option<&[u8]> {
    packet.get(usize::from(packet.first()? & 0x0f) * 4..)
}

/// Skips an IPv6 header. The requests have no extension headers, except for a fragment header if they
/// are large.
fn skip_v6(packet: &[u8]) -> Option<&[u8]> {
    const FRAGMENT: u8 = 44;
    packet.get(if *packet.get(6)? == FRAGMENT { 48 } else { 40 }..)
}

fn checksum(packet: &[u8]) -> u16 {
    let words = packet
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// `ICMP_FILTER`: a set bit blocks its type.
pub(super) fn blocked_v4() -> [u32; 1] {
    let passed = ERRORS_V4
        .into_iter()
        .chain([ECHO_REPLY[0]])
        .fold(0, |mask, kind| mask | 1u32 << kind);
    [!passed]
}

/// `ICMPV6_FILTER`: a set bit blocks its type.
pub(super) fn blocked_v6() -> [u32; 8] {
    let mut blocked = [u32::MAX; 8];
    for kind in ERRORS_V6.into_iter().chain([ECHO_REPLY[1]]) {
        blocked[usize::from(kind >> 5)] &= !(1 << (kind & 31));
    }
    blocked
}

fn reason_v4(kind: u8, code: u8) -> Option<&'static str> {
    Some(match (kind, code) {
        (3, 0 | 6) => "destination network unreachable",
        (3, 1 | 7) => "destination host unreachable",
        (3, 2) => "destination protocol unreachable",
        (3, 3) => "destination port unreachable",
        (3, 4) => "fragmentation needed",
        (3, 9 | 10 | 13) => "administratively prohibited",
        (3, _) => "destination unreachable",
        (11, _) => "time to live exceeded",
        (12, _) => "parameter problem",
        _ => return None,
    })
}

fn reason_v6(kind: u8, code: u8) -> Option<&'static str> {
    Some(match (kind, code) {
        (1, 0) => "no route to destination",
        (1, 1 | 5) => "administratively prohibited",
        (1, 3) => "destination host unreachable",
        (1, 4) => "destination port unreachable",
        (1, _) => "destination unreachable",
        (2, _) => "packet too big",
        (3, _) => "hop limit exceeded",
        (4, _) => "parameter problem",
        _ => return None,
    })
}
