//! Encryption of connections, and certificates that change while connections stand.
//!
//! A connection keeps what it was made with; a new one gets what is in force then. TLS itself is rustls.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::files::{Kept, Look, read};
use crate::identity::certificate::Certificate;

/// Whether clients show certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// They are not asked to.
    Unasked,
    /// Those that show one must have it from the authority.
    Optional,
    /// Each must show one.
    Required,
}

/// Oldest version that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oldest {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// Files and rules.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The replica's certificate and what leads up to its authority, PEM, its own first.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Authorities of clients' certificates, PEM.
    pub client_ca: Option<PathBuf>,
    /// Whether clients show theirs.
    pub clients: Clients,
    /// Oldest version.
    pub oldest: Oldest,
}

/// What connections are made with.
pub struct Loaded {
    config: Arc<ServerConfig>,
    not_after_s: i64,
}

/// Encrypts the connections of a front.
pub struct Tls {
    kept: Kept<Loaded>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// One sentence that names the file at fault.
    pub fn new(settings: Settings) -> Result<Self, String> {
        let mut paths = vec![settings.certificate.clone(), settings.key.clone()];
        paths.extend(settings.client_ca.clone());
        let kept = Kept::open("certificate", paths, move || load(&settings))?;
        Ok(Self { kept })
    }

    /// Greets a client, and says who it proved to be.
    ///
    /// # Errors
    /// The client speaks otherwise, or its certificate is not good.
    pub async fn greet(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<Certificate>)> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.kept.get().config));
        let stream = acceptor.accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates();
        let own = shown.and_then(|chain| chain.first());
        let certificate = own.map(|own| Certificate::read(own)).transpose();
        let certificate = certificate.map_err(io::Error::other)?;
        Ok((stream, certificate))
    }

    /// Looks whether the files have changed, and takes them.
    pub fn look(&self) -> Option<Look> {
        self.kept.look()
    }

    /// When the certificate in force ends, Unix seconds.
    #[must_use]
    pub fn not_after_s(&self) -> i64 {
        self.kept.get().not_after_s
    }

    /// As of files that may change.
    #[must_use]
    pub fn counted(&self) -> (&'static str, u64, u64) {
        self.kept.counted()
    }
}

fn load(settings: &Settings) -> Result<Loaded, String> {
    let named = |path: &PathBuf, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let chain = certificates(&settings.certificate)?;
    let own = Certificate::read(&chain[0]).map_err(|why| named(&settings.certificate, &why))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    if now.is_ok_and(|now| now.as_secs().cast_signed() >= own.not_after_s) {
        return Err(named(&settings.certificate, &"it has expired"));
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&settings.key)?)
        .map_err(|_| named(&settings.key, &"it holds no private key in PEM"))?;
    let versions: &[&SupportedProtocolVersion] = match settings.oldest {
        Oldest::Tls12 => &[&TLS12, &TLS13],
        Oldest::Tls13 => &[&TLS13],
    };
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?;
    let builder = match (&settings.client_ca, settings.clients) {
        (_, Clients::Unasked) => builder.with_no_client_auth(),
        (None, _) => return Err("clients' certificates need an authority".to_owned()),
        (Some(path), clients) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots.add(root).map_err(|error| named(path, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if clients == Clients::Optional {
                verifier.allow_unauthenticated()
            } else {
                verifier
            };
            let verifier = verifier.build().map_err(|error| named(path, &error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    // A key that is not the certificate's is found here, as when only one of the two files is new yet.
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| named(&settings.certificate, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Loaded {
        config: Arc::new(config),
        not_after_s: own.not_after_s,
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let data = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&data).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(format!(
            "{}: it holds no certificate in PEM",
            path.display()
        )),
    }
}
