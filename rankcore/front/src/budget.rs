//! How much time a call has really left.
//!
//! gRPC's own deadline is a duration that counts from the moment it is read off the socket, so a pause of the process, or a
//! socket that nobody reads, is invisible to it. Clients therefore also send the absolute deadline in metadata, and the
//! smaller remainder counts. An absolute time compares two clocks; on one machine they are the same clock, elsewhere the
//! difference is estimated for each connection by the smallest one seen.

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::HeaderMap;

/// Metadata with the absolute deadline, microseconds since 1970.
pub const DEADLINE_KEY: &str = "muster-deadline-unix-us";

/// gRPC's deadline, a duration from when the call was sent.
pub const TIMEOUT_KEY: &str = "grpc-timeout";

/// Calls of a connection after which its clock is taken to be known.
const SAMPLES_MIN: u32 = 8;

/// Calls after which what was seen before them begins to be forgotten: clocks drift, and are set.
const WINDOW_CALLS: u32 = 128;

/// No call waits for so long before it is read: what looks like it is a clock that differs, or was set.
const WAIT_MAX_US: i64 = 10_000_000;

/// A budget above this is none.
const NO_DEADLINE_US: i64 = 365 * 86_400 * 1_000_000;

/// Bounds the skew between a connection's clock and ours by the least delay that the connection has shown.
///
/// For one call, `excess = gRPC remainder - metadata remainder` is the time that the call waited before it was read plus what
/// our clock is ahead of the client's. Waiting is never negative and sometimes about zero, so the least excess is the skew
/// (plus the least delay, which gRPC's own deadline has counted at the client's side). Until a connection has shown a few
/// calls, the clocks are taken to agree. The least is that of the last one to two windows of calls; an excess that no wait can
/// explain begins the estimate anew, so neither clock's being set leaves a connection without answers.
#[derive(Debug)]
pub struct Skew {
    calls: u32,
    in_window: u32,
    least_us: i64,
    /// Of the window before.
    before_us: i64,
}

impl Default for Skew {
    fn default() -> Self {
        Self {
            calls: 0,
            in_window: 0,
            least_us: i64::MAX,
            before_us: i64::MAX,
        }
    }
}

impl Skew {
    /// Notes one call; the skew to take off its excess, microseconds.
    pub fn note(&mut self, excess_us: i64) -> i64 {
        // Clocks that nothing is known of are taken to agree.
        let known_us = if self.calls == 0 {
            0
        } else {
            self.least_us.min(self.before_us)
        };
        if excess_us.saturating_sub(known_us) > WAIT_MAX_US {
            *self = Self {
                calls: SAMPLES_MIN,
                in_window: 1,
                least_us: excess_us,
                ..Self::default()
            };
            return excess_us;
        }
        if self.in_window == WINDOW_CALLS {
            (self.before_us, self.least_us, self.in_window) = (self.least_us, i64::MAX, 0);
        }
        self.least_us = self.least_us.min(excess_us);
        self.in_window += 1;
        self.calls = self.calls.saturating_add(1);
        if self.calls >= SAMPLES_MIN {
            self.least_us.min(self.before_us)
        } else {
            0
        }
    }
}

/// A connection's clock.
#[derive(Debug)]
pub enum PeerClock {
    /// The peer is on this machine: one clock.
    Ours,
    /// Another machine's, estimated.
    Other(Skew),
}

impl PeerClock {
    /// The clock of a peer at this address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.to_canonical().is_loopback() {
            Self::Ours
        } else {
            Self::Other(Skew::default())
        }
    }

    /// Microseconds until the caller stops waiting, 0 or less if it already has; `None`: it named no deadline.
    ///
    /// `timeout_us`: gRPC's remainder. `told_us`: what is left by our clock until the absolute deadline.
    pub fn remaining_us(&mut self, timeout_us: Option<i64>, told_us: Option<i64>) -> Option<i64> {
        let (Some(timeout_us), Some(told_us)) = (timeout_us, told_us) else {
            return timeout_us.or(told_us);
        };
        // An absolute deadline may be any number.
        let excess_us = timeout_us.saturating_sub(told_us);
        let skew_us = match self {
            Self::Ours => 0,
            Self::Other(skew) => skew.note(excess_us),
        };
        let waited_us = excess_us.saturating_sub(skew_us);
        Some(timeout_us.saturating_sub(waited_us.max(0).min(excess_us.max(0))))
    }
}

/// The deadline that a call names, as it was read at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// gRPC's remainder, microseconds.
    pub timeout_us: Option<i64>,
    /// What is left until the absolute deadline, microseconds.
    pub told_us: Option<i64>,
}

impl Told {
    /// Reads a call's metadata. What is no number is ignored, as is a deadline more than a year away.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Self {
        let text = |key| headers.get(key).and_then(|value| value.to_str().ok());
        Self {
            timeout_us: text(TIMEOUT_KEY)
                .and_then(timeout_us)
                .filter(|timeout_us| *timeout_us <= NO_DEADLINE_US),
            told_us: text(DEADLINE_KEY)
                .and_then(|value| value.trim().parse::<i64>().ok())
                .map(|deadline_us| deadline_us.saturating_sub(now_unix_us())),
        }
    }
}

/// A value of `grpc-timeout` in microseconds; `None`: it is malformed. Source: gRPC over HTTP/2, "Timeout".
fn timeout_us(value: &str) -> Option<i64> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: i64 = digits.parse().ok()?;
    Some(match unit {
        "H" => number * 3_600_000_000,
        "M" => number * 60_000_000,
        "S" => number * 1_000_000,
        "m" => number * 1_000,
        "u" => number,
        "n" => number / 1_000,
        _ => return None,
    })
}

fn now_unix_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
        })
}

/// This machine's monotonic clock, microseconds: the same for every process.
#[must_use]
pub fn monotonic_us() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

/// When a budget counted at `arrived` ends; at once for one that is spent.
#[must_use]
pub fn deadline(arrived: Instant, remaining_us: i64) -> Instant {
    arrived + Duration::from_micros(u64::try_from(remaining_us).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> PeerClock {
        PeerClock::of("127.0.0.1".parse().expect("an address"))
    }

    fn other() -> PeerClock {
        PeerClock::of("10.0.0.9".parse().expect("an address"))
    }

    #[test]
    fn the_smaller_remainder_counts() {
        for (timeout_us, told_us, expected) in [
            (None, None, None),
            (Some(50_000), None, Some(50_000)),
            (Some(0), None, Some(0)),
            (None, Some(30_000), Some(30_000)),
            (Some(50_000), Some(30_000), Some(30_000)),
            (Some(50_000), Some(90_000), Some(50_000)),
            (Some(50_000), Some(-10_000), Some(-10_000)),
        ] {
            assert_eq!(ours().remaining_us(timeout_us, told_us), expected);
            assert_eq!(other().remaining_us(timeout_us, told_us), expected);
        }
    }

    #[test]
    fn an_absolute_deadline_may_be_any_number() {
        for mut clock in [ours(), other()] {
            for _ in 0..2 * SAMPLES_MIN {
                let past = clock.remaining_us(Some(50_000), Some(i64::MIN));
                assert!(past.is_some_and(|remaining_us| remaining_us <= 50_000));
                let future = clock.remaining_us(Some(50_000), Some(i64::MAX));
                assert_eq!(future, Some(50_000));
            }
        }
        let past = ours().remaining_us(Some(50_000), Some(i64::MIN));
        assert!(past.is_some_and(|remaining_us| remaining_us < 0));
    }

    #[test]
    fn loopback_is_this_machine_in_every_spelling() {
        for (address, same) in [
            ("127.0.0.1", true),
            ("127.8.8.8", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.9", false),
            ("::ffff:10.0.0.9", false),
        ] {
            let clock = PeerClock::of(address.parse().expect("an address"));
            assert_eq!(matches!(clock, PeerClock::Ours), same, "{address}");
        }
    }

    #[test]
    fn a_clock_that_is_ahead_is_learned_and_a_delay_is_still_seen() {
        let mut clock = other();
        let mut remaining =
            |delay_us: i64| clock.remaining_us(Some(50_000), Some(50_000 - 400_000 - delay_us));
        for _ in 0..10 {
            remaining(0);
        }
        assert_eq!(remaining(0), Some(50_000));
        assert_eq!(remaining(30_000), Some(20_000));
    }

    /// What a call of 50 ms has left that waited for so long, our clock being ahead.
    fn left(clock: &mut PeerClock, ahead_us: i64, waited_us: i64) -> Option<i64> {
        clock.remaining_us(Some(50_000), Some(50_000 - ahead_us - waited_us))
    }

    #[test]
    fn a_clock_that_is_set_by_an_hour_costs_no_call_and_a_delay_is_still_seen() {
        const HOUR_US: i64 = 3_600_000_000;
        // From the first call on, in the middle of a connection, and back again.
        for begun_us in [HOUR_US, -HOUR_US, 0] {
            let mut clock = other();
            for ahead_us in [begun_us, 0, HOUR_US, 0, -HOUR_US, 0] {
                for _ in 0..2 * SAMPLES_MIN {
                    assert_eq!(left(&mut clock, ahead_us, 0), Some(50_000));
                }
                // A clock that is behind hides a wait, it never makes one up.
                let waited = left(&mut clock, ahead_us, 30_000).expect("a deadline");
                assert!((20_000..=50_000).contains(&waited), "{waited}");
                if ahead_us > 0 {
                    assert_eq!(waited, 20_000);
                }
            }
        }
    }

    #[test]
    fn a_clock_that_is_set_by_a_second_is_learned_within_two_windows() {
        let mut clock = other();
        for _ in 0..WINDOW_CALLS {
            left(&mut clock, 0, 0);
        }
        for _ in 0..2 * WINDOW_CALLS {
            left(&mut clock, 1_000_000, 0);
        }
        assert_eq!(left(&mut clock, 1_000_000, 0), Some(50_000));
        assert_eq!(left(&mut clock, 1_000_000, 30_000), Some(20_000));
    }

    #[test]
    fn a_clock_that_is_behind_never_adds_time() {
        let mut clock = other();
        for _ in 0..20 {
            assert_eq!(
                clock.remaining_us(Some(50_000), Some(500_000)),
                Some(50_000)
            );
        }
    }

    #[test]
    fn timeouts_are_read_in_every_unit_and_malformed_ones_are_ignored() {
        for (value, expected) in [
            ("50m", Some(50_000)),
            ("49999u", Some(49_999)),
            ("1500n", Some(1)),
            ("2S", Some(2_000_000)),
            ("1M", Some(60_000_000)),
            ("1H", Some(3_600_000_000)),
            ("99999999H", Some(359_999_996_400_000_000)),
            ("", None),
            ("m", None),
            ("123456789m", None),
            ("-1m", None),
            ("1.5S", None),
            ("50x", None),
            ("5é", None),
        ] {
            assert_eq!(timeout_us(value), expected, "{value:?}");
        }
    }

    #[test]
    fn a_deadline_in_the_far_future_is_none() {
        let mut headers = HeaderMap::new();
        headers.insert(TIMEOUT_KEY, "99999999H".parse().expect("a value"));
        headers.insert(DEADLINE_KEY, "soon".parse().expect("a value"));
        assert_eq!(
            Told::read(&headers),
            Told {
                timeout_us: None,
                told_us: None
            }
        );
    }
}
