//! The front of a replica, for Python to start and stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rankcore_engine::account::{REASONS, STAGES, by_stage};
use rankcore_engine::bundle::Tier;
use rankcore_front::buckets::Rate;
use rankcore_front::counts::BOUNDS_US;
use rankcore_front::files::Look;
use rankcore_front::identity::{self, scope, token::Rules};
use rankcore_front::limits::Limits;
use rankcore_front::receipts::KEY_BYTES;
use rankcore_front::tls::{self, Clients, Oldest};
use rankcore_front::trial::{PARTS, Trial};
use rankcore_front::{Called, Front as CoreFront, News, Settings, status};

use crate::Engine;
use crate::shoppers::Shoppers;

/// How connections are encrypted, as Python gives it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct TlsSettings {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    client_auth: String,
    min_version: String,
}

/// How callers are known, as Python gives it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct IdentitySettings {
    keys: Option<PathBuf>,
    revoked: Option<PathBuf>,
    issuer: Option<String>,
    audience: String,
    audience_once: String,
    skew_s: i64,
    lifetime_max_s: i64,
    certificates: Vec<String>,
    admin_once: bool,
    failures_per_s: f64,
    failures_burst: f64,
}

/// How often callers may call, as Python gives it: calls a second and at once; none: as often as they like.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct QuotaSettings {
    each: Option<(f64, f64)>,
    named: Vec<(String, f64, f64)>,
}

impl TlsSettings {
    fn core(self) -> PyResult<tls::Settings> {
        let unknown = |name: &str| PyValueError::new_err(format!("unknown: {name}"));
        Ok(tls::Settings {
            certificate: self.certificate,
            key: self.key,
            client_ca: self.client_ca,
            clients: match self.client_auth.as_str() {
                "none" => Clients::Unasked,
                "optional" => Clients::Optional,
                "required" => Clients::Required,
                other => return Err(unknown(other)),
            },
            oldest: match self.min_version.as_str() {
                "1.2" => Oldest::Tls12,
                "1.3" => Oldest::Tls13,
                other => return Err(unknown(other)),
            },
        })
    }
}

impl IdentitySettings {
    fn core(self) -> identity::Settings {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        identity::Settings {
            keys: self.keys,
            revoked: self.revoked,
            rules: Rules {
                issuer: self.issuer,
                audience: self.audience,
                audience_once: self.audience_once,
                skew_s: self.skew_s,
                lifetime_max_s: self.lifetime_max_s,
                started_s: now.map_or(0, |now| now.as_secs().cast_signed()),
            },
            certificates: self.certificates,
            admin_once: self.admin_once,
            failures: Rate {
                per_s: self.failures_per_s,
                burst: self.failures_burst,
            },
        }
    }
}

impl QuotaSettings {
    fn core(self) -> identity::Quota {
        let rate = |per_s, burst| Rate { per_s, burst };
        identity::Quota {
            each: self.each.map(|(per_s, burst)| rate(per_s, burst)),
            named: self
                .named
                .into_iter()
                .map(|(name, per_s, burst)| (name, rate(per_s, burst)))
                .collect(),
        }
    }
}

/// The public socket of a replica.
#[pyclass(module = "rankcore._native", frozen)]
pub struct Front(CoreFront);

impl Drop for Front {
    fn drop(&mut self) {
        // It may be the last owner of the engine, whose threads may be waiting for the interpreter.
        let stopped = Python::try_attach(|py| py.detach(|| self.0.stop(Duration::ZERO)));
        if stopped.is_none() {
            self.0.stop(Duration::ZERO);
        }
    }
}

#[pymethods]
impl Front {
    #[new]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    #[pyo3(signature = (listen, *, upstream, threads, request_bytes_max, response_bytes_max, requests_in_flight_max, connections_max, default_us, max_us, tls=None, identity=None, quota=None, look_every_s=1.0))]
    fn new(
        py: Python<'_>,
        listen: &str,
        upstream: PathBuf,
        threads: usize,
        request_bytes_max: usize,
        response_bytes_max: usize,
        requests_in_flight_max: usize,
        connections_max: usize,
        default_us: i64,
        max_us: i64,
        tls: Option<TlsSettings>,
        identity: Option<IdentitySettings>,
        quota: Option<QuotaSettings>,
        look_every_s: f64,
    ) -> PyResult<Self> {
        let settings = Settings {
            upstream: Arc::from(upstream),
            threads,
            request_bytes_max,
            response_bytes_max,
            requests_in_flight_max,
            connections_max,
            limits: Limits::default(),
            default_us,
            max_us,
            tls: tls.map(TlsSettings::core).transpose()?,
            identity: identity.map(IdentitySettings::core),
            quota: quota.map(QuotaSettings::core).unwrap_or_default(),
            look_every: Duration::try_from_secs_f64(look_every_s).unwrap_or(Duration::from_secs(1)),
        };
        let bound = py.detach(|| CoreFront::bind(listen, settings));
        bound.map(Self).map_err(|error| match error.kind() {
            // What the settings name, not what the system says of the address.
            std::io::ErrorKind::InvalidInput => PyValueError::new_err(error.to_string()),
            _ => error.into(),
        })
    }

    /// The port taken.
    #[getter]
    fn port(&self) -> u16 {
        self.0.address().port()
    }

    /// Begin to answer; ranking calls are UNAVAILABLE until `serve`.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        Ok(py.detach(|| self.0.start())?)
    }

    /// Answers get ids from now on, signed with this key, 32 bytes.
    fn sign_receipts(&self, key: [u8; KEY_BYTES]) {
        self.0.sign_receipts(key);
    }

    /// Searches that name a shopper or a visit are told of these from now on.
    fn remember(&self, shoppers: &Shoppers) {
        self.0.remember(shoppers.shared());
    }

    /// Ranking calls are answered by this engine from now on.
    fn serve(&self, engine: &Engine) {
        self.0.serve(engine.shared());
    }

    /// Try a candidate out beside the serving engine, so far on no request; `None`: end the trial.
    #[pyo3(signature = (candidate))]
    fn try_out(&self, py: Python<'_>, candidate: Option<&Engine>) {
        let trial = candidate.map(|candidate| Arc::new(Trial::new(candidate.shared())));
        // The trial before may be the last owner of its engine.
        py.detach(|| self.0.try_out(trial));
    }

    /// Compare, and have the candidate answer, these shares of the requests, 0 to 1; False: there is no trial.
    fn share(&self, shadow: f64, canary: f64) -> bool {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let parts = |share: f64| (share.clamp(0.0, 1.0) * f64::from(PARTS)).round() as u32;
        let trial = self.0.trial();
        if let Some(trial) = &trial {
            trial.share(parts(shadow), parts(canary));
        }
        trial.is_some()
    }

    /// What was measured of the candidate and beside it, by name; None: there is no trial.
    fn measured<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(trial) = self.0.trial() else {
            return Ok(None);
        };
        let measured = trial.measured();
        let all = PyDict::new(py);
        for (name, arm) in [
            ("serving", &measured.serving),
            ("canary", &measured.canary),
            ("shadow", &measured.shadow),
        ] {
            let one = PyDict::new(py);
            one.set_item("answered", arm.answered)?;
            one.set_item("failed", arm.failed)?;
            one.set_item("refused", arm.refused)?;
            one.set_item("given_up", arm.given_up)?;
            one.set_item("worth_total", arm.worth_total)?;
            one.set_item("latency", arm.latency.buckets())?;
            let tiers = PyDict::new(py);
            for (tier, work) in Tier::ALL.into_iter().zip(&arm.work) {
                if !work.is_empty() {
                    tiers.set_item(tier.as_str(), work.buckets())?;
                }
            }
            one.set_item("work", tiers)?;
            all.set_item(name, one)?;
        }
        all.set_item("compared", measured.compared)?;
        all.set_item("dropped", measured.dropped)?;
        all.set_item("agreement_total", measured.agreement_total)?;
        all.set_item("overlap_total", measured.overlap_total)?;
        Ok(Some(all))
    }

    /// Refuse new calls, let running ones end, break off those that outlive the grace, seconds. Idempotent.
    fn stop(&self, py: Python<'_>, grace_s: f64) {
        let grace = Duration::try_from_secs_f64(grace_s).unwrap_or_default();
        py.detach(|| self.0.stop(grace));
    }

    /// What was counted, by name of the method.
    fn counted<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let all = PyDict::new(py);
        for called in Called::ALL {
            let counted = self.0.counted(called);
            let handled = PyDict::new(py);
            for (code, count) in counted.handled {
                handled.set_item(code as u8, count)?;
            }
            let one = PyDict::new(py);
            one.set_item("started", counted.started)?;
            one.set_item("handled", handled)?;
            one.set_item("buckets", counted.buckets)?;
            #[allow(clippy::cast_precision_loss)]
            one.set_item("total_s", counted.total_us as f64 / 1e6)?;
            all.set_item(called.as_str(), one)?;
        }
        Ok(all)
    }

    /// Trace the ranking calls whose callers are traced, and this share of those that name no trace; `None`: none at all.
    #[pyo3(signature = (share))]
    fn sample(&self, share: Option<f64>) {
        self.0.sample(share);
    }

    /// The next ranking call that was traced, if one ends within `wait_s` seconds: its trace, times and account by name.
    fn traced<'py>(&self, py: Python<'py>, wait_s: f64) -> PyResult<Option<Bound<'py, PyDict>>> {
        let wait = Duration::try_from_secs_f64(wait_s).unwrap_or_default();
        let Some(traced) = py.detach(|| self.0.traced(wait)) else {
            return Ok(None);
        };
        let one = PyDict::new(py);
        one.set_item("trace_id", traced.context.trace_id)?;
        one.set_item("parent_id", traced.context.parent_id)?;
        one.set_item("request_id", traced.request_id)?;
        one.set_item("method", traced.method.as_str())?;
        one.set_item("began_unix_us", traced.began_unix_us)?;
        one.set_item("took_us", traced.took_us)?;
        one.set_item("code", traced.code as u8)?;
        if let Some(account) = traced.account {
            one.set_item("tier", account.tier.as_str())?;
            let reason = REASONS.iter().find(|(reason, _)| *reason == account.reason);
            one.set_item("reason", reason.map_or("unspecified", |(_, name)| *name))?;
            one.set_item("depth", account.depth)?;
            one.set_item("expected_ndcg", account.worth)?;
            one.set_item("price", account.price)?;
            let stages = PyDict::new(py);
            for (name, us) in STAGES.iter().zip(by_stage(&account.timings)) {
                stages.set_item(*name, us)?;
            }
            one.set_item("stages_us", stages)?;
        }
        Ok(Some(one))
    }

    /// What was counted of callers and of encryption; None where the settings ask for neither.
    fn guarded<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let all = PyDict::new(py);
        let mut files = Vec::new();
        if let Some(callers) = self.0.callers() {
            let refused = PyDict::new(py);
            for (reason, count) in callers.refused {
                refused.set_item(reason, count)?;
            }
            all.set_item("refused", refused)?;
            all.set_item("verified", callers.verified)?;
            files.extend(callers.files);
        }
        if let Some((not_after_s, failed, counted)) = self.0.encrypted() {
            all.set_item("not_after_s", not_after_s)?;
            all.set_item("handshakes_failed", failed)?;
            files.push(counted);
        }
        all.set_item("files", files)?;
        Ok(all)
    }

    /// Look at once at the files that may change: certificates, keys, revoked.
    fn look(&self, py: Python<'_>) {
        py.detach(|| self.0.look());
    }

    /// The next thing that the log must tell, if it comes within `wait_s` seconds: its kind, and its parts.
    fn news(&self, py: Python<'_>, wait_s: f64) -> Option<(&'static str, Vec<String>)> {
        let wait = Duration::try_from_secs_f64(wait_s).unwrap_or_default();
        let news = py.detach(|| self.0.news(wait))?;
        Some(match news {
            News::Failed(failure) => (
                "failed",
                vec![
                    failure.reference,
                    failure.cause,
                    failure.request_id.unwrap_or_default(),
                ],
            ),
            News::Looked(Look::Taken(what)) => ("taken", vec![what.to_owned()]),
            News::Looked(Look::Kept(what, why)) => ("kept", vec![what.to_owned(), why]),
            News::Denied {
                path,
                address,
                subject,
                reason,
            } => (
                "denied",
                vec![
                    path,
                    address.to_string(),
                    subject.unwrap_or_default(),
                    reason.to_owned(),
                ],
            ),
        })
    }
}

/// Upper bounds of the buckets of `Front.counted`, seconds.
#[pyfunction]
pub fn front_bounds_s() -> Vec<f64> {
    #[allow(clippy::cast_precision_loss)]
    BOUNDS_US
        .iter()
        .map(|bound_us| *bound_us as f64 / 1e6)
        .collect()
}

/// Error, code, reason and public text of every row that the front tells, for comparing it with the service's table.
#[pyfunction]
pub fn front_statuses() -> Vec<(&'static str, u8, &'static str, &'static str)> {
    status::ROWS
        .iter()
        .map(|row| (row.error, row.code as u8, row.reason, row.meaning))
        .collect()
}

/// The scopes of which one opens the method at this path; None: it is open to all.
#[pyfunction]
pub fn front_scopes(path: &str) -> Option<String> {
    scope::needed(path).map(scope::Scopes::names)
}
