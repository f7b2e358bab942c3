//! Which ranking calls are traced, and what is told of them once they have ended.
//!
//! A call is told whole, after its end: its answer's account holds the time of each stage, so nothing is noted on the way, and a
//! call that is not sampled costs one look at a number. Source of `traceparent`: W3C Trace Context, level 1, section 3.2.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use parking_lot::Mutex;
use rankcore_engine::account::Account;

use crate::ranking::Called;
use crate::status::Code;

/// Shares are told in so many parts.
const PARTS: u32 = 1_000_000;
/// Off: not even a parent's wish is heard.
const OFF: u32 = u32::MAX;
/// Calls that wait to be read; where nobody keeps up, further ones are dropped.
const WAITING_MAX: usize = 1_024;
/// Longest name of a request that is taken from its metadata, bytes.
const REQUEST_ID_MAX: usize = 64;

const PARENT: &str = "traceparent";
const REQUEST_ID: &str = "x-request-id";

/// A call that is traced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// The caller's span, 16 hexadecimal digits; `None`: the trace begins here.
    pub parent_id: Option<String>,
}

/// A traced call that has ended.
#[derive(Debug, Clone)]
pub struct Traced {
    /// Where it belongs.
    pub context: Context,
    /// What it asked for.
    pub method: Called,
    /// When it began, microseconds since 1970.
    pub began_unix_us: u64,
    /// What it took, microseconds.
    pub took_us: u64,
    /// How it ended.
    pub code: Code,
    /// The account of its answer; `None`: there was none.
    pub account: Option<Account>,
    /// The name that its metadata give it.
    pub request_id: Option<String>,
}

/// Chooses the calls to trace and keeps those that ended until they are read.
pub struct Traces {
    parts: AtomicU32,
    sender: SyncSender<Traced>,
    receiver: Mutex<Receiver<Traced>>,
    random: RandomState,
    began: Instant,
}

impl Default for Traces {
    fn default() -> Self {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        Self {
            parts: AtomicU32::new(OFF),
            sender,
            receiver: Mutex::new(receiver),
            random: RandomState::new(),
            began: Instant::now(),
        }
    }
}

impl Traces {
    /// Traces the calls whose parents are, and this share, 0 to 1, of those without a parent; `None`: none at all.
    pub fn sample(&self, share: Option<f64>) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let parts = share.map_or(OFF, |share| {
            (share.clamp(0.0, 1.0) * f64::from(PARTS)).round() as u32
        });
        self.parts.store(parts, Ordering::Relaxed);
    }

    /// Whether a call with these metadata is traced, and where it belongs.
    #[must_use]
    pub fn begin(&self, headers: &HeaderMap) -> Option<Context> {
        let parts = self.parts.load(Ordering::Relaxed);
        if parts == OFF {
            return None;
        }
        if let Some((context, sampled)) = parent(headers) {
            return sampled.then_some(context);
        }
        let drawn = self.draw();
        if parts == 0 || drawn % u64::from(PARTS) >= u64::from(parts) {
            return None;
        }
        Some(Context {
            // All zeros would be no identifier.
            trace_id: format!("{:016x}{:016x}", self.draw() | 1, self.draw()),
            parent_id: None,
        })
    }

    fn draw(&self) -> u64 {
        // Each hasher of one state begins alike; the time tells the draws apart.
        self.random
            .hash_one((self.began.elapsed().as_nanos(), std::thread::current().id()))
    }

    /// Keeps a call that has ended.
    pub fn end(&self, traced: Traced) {
        let _ = self.sender.try_send(traced);
    }

    /// The next call that was traced, if one ends within `wait`.
    #[must_use]
    pub fn next(&self, wait: Duration) -> Option<Traced> {
        self.receiver.lock().recv_timeout(wait).ok()
    }
}

/// Microseconds since 1970 at a moment in the past.
#[must_use]
pub fn unix_us(moment: Instant) -> u64 {
    let now = SystemTime::now().checked_sub(moment.elapsed());
    let since = now.and_then(|then| then.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}

/// The caller's span and whether the caller is traced; `None` without a readable one.
fn parent(headers: &HeaderMap) -> Option<(Context, bool)> {
    let text = headers.get(PARENT)?.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace_id, parent_id, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, digits: usize| {
        text.len() == digits
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let named = |text: &str| text.bytes().any(|byte| byte != b'0');
    // Later versions may add parts; this one has none.
    let known = hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    if !known || !hex(trace_id, 32) || !hex(parent_id, 16) || !hex(flags, 2) {
        return None;
    }
    if !named(trace_id) || !named(parent_id) {
        return None;
    }
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    let context = Context {
        trace_id: trace_id.to_owned(),
        parent_id: Some(parent_id.to_owned()),
    };
    Some((context, sampled))
}

/// The name that metadata give a request: `x-request-id` where it is short and plain, else the trace.
#[must_use]
pub fn request_id(headers: &HeaderMap) -> Option<String> {
    let plain = |text: &&str| {
        (1..=REQUEST_ID_MAX).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    };
    let given = headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    given
        .filter(plain)
        .map(str::to_owned)
        .or_else(|| Some(parent(headers)?.0.trace_id))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                let value = HeaderValue::from_str(value).expect("a value");
                (http::HeaderName::from_static(name), value)
            })
            .collect()
    }

    #[test]
    fn a_call_follows_its_parent() {
        let traces = Traces::default();
        let told = |flags: &str| format!("00-{TRACE}-{SPAN}-{flags}");
        let sampled = headers(&[(PARENT, told("01").as_str())]);
        assert_eq!(traces.begin(&sampled), None, "off");
        traces.sample(Some(0.0));
        let context = traces.begin(&sampled).expect("sampled");
        assert_eq!(context.trace_id, TRACE);
        assert_eq!(context.parent_id.as_deref(), Some(SPAN));
        traces.sample(Some(1.0));
        let unsampled = headers(&[(PARENT, told("00").as_str())]);
        assert_eq!(traces.begin(&unsampled), None);
    }

    #[test]
    fn of_calls_without_a_parent_a_share_is_traced() {
        let traces = Traces::default();
        let none = HeaderMap::new();
        traces.sample(Some(0.0));
        assert!((0..1_000).all(|_| traces.begin(&none).is_none()));
        traces.sample(Some(1.0));
        let first = traces.begin(&none).expect("all are");
        let second = traces.begin(&none).expect("all are");
        assert_ne!(first.trace_id, second.trace_id);
        assert_eq!((first.trace_id.len(), first.parent_id), (32, None));
        traces.sample(Some(0.5));
        let chosen = (0..4_000).filter(|_| traces.begin(&none).is_some()).count();
        assert!((1_600..2_400).contains(&chosen), "{chosen} of 4,000");
    }

    #[test]
    fn what_is_no_parent_is_passed_over() {
        let zeros = "0".repeat(32);
        for text in [
            "",
            "00",
            &format!("00-{TRACE}-{SPAN}"),
            &format!("00-{TRACE}-{SPAN}-01-extra"),
            &format!("ff-{TRACE}-{SPAN}-01"),
            &format!("00-{zeros}-{SPAN}-01"),
            &format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            &format!("00-{TRACE}-{}-01", &SPAN[1..]),
            &format!("00-{TRACE}-{SPAN}-+1"),
        ] {
            assert_eq!(parent(&headers(&[(PARENT, text)])), None, "{text}");
        }
        let later = format!("01-{TRACE}-{SPAN}-03-extra");
        let later = headers(&[(PARENT, later.as_str())]);
        assert!(parent(&later).is_some_and(|(_, sampled)| sampled));
    }

    #[test]
    fn a_request_is_named_by_its_metadata_where_they_are_plain() {
        let text = format!("00-{TRACE}-{SPAN}-00");
        let traced = (PARENT, text.as_str());
        assert_eq!(
            request_id(&headers(&[(REQUEST_ID, "order-7"), traced])).as_deref(),
            Some("order-7")
        );
        for strange in ["", "two words", "\"quoted\"", &"x".repeat(65)] {
            let named = request_id(&headers(&[(REQUEST_ID, strange), traced]));
            assert_eq!(named.as_deref(), Some(TRACE), "{strange}");
        }
        assert_eq!(request_id(&HeaderMap::new()), None);
    }

    #[test]
    fn calls_that_nobody_reads_do_not_pile_up() {
        let traces = Traces::default();
        let traced = Traced {
            context: Context {
                trace_id: TRACE.to_owned(),
                parent_id: None,
            },
            method: Called::Recommend,
            began_unix_us: 1,
            took_us: 2,
            code: Code::Ok,
            account: None,
            request_id: None,
        };
        for _ in 0..WAITING_MAX + 10 {
            traces.end(traced.clone());
        }
        let read = std::iter::from_fn(|| traces.next(Duration::ZERO)).count();
        assert_eq!(read, WAITING_MAX);
    }
}
