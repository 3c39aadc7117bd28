//! TLS to the daemon (rustls).

use std::{io, path::Path, sync::Arc};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring},
};

use crate::Stream;

/// Reads the certificates of a file (PEM).
///
/// # Errors
/// A description of the invalid file.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| error.to_string())?;
    if certificates.is_empty() {
        return Err("no PEM certificate in it".into());
    }
    Ok(certificates)
}

/// Reads the CA certificates of a file (PEM).
///
/// # Errors
/// A description of the invalid file.
pub fn read_ca_certificates(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

/// TLS configuration of a client: CA certificates, and its own certificate.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
}

impl Tls {
    /// Trusts the CA certificates of `ca` (PEM), by default the system's; `own` are the files of a
    /// client certificate and its key (PEM).
    ///
    /// # Errors
    /// A file that cannot be read or is invalid.
    pub fn new(ca: Option<&Path>, own: Option<(&Path, &Path)>) -> io::Result<Self> {
        let roots = match ca {
            Some(path) => read_ca_certificates(path).map_err(|error| invalid_file(path, error))?,
            None => {
                let mut roots = RootCertStore::empty();
                let system = rustls_native_certs::load_native_certs().certs;
                let _ = roots.add_parsable_certificates(system); // Unusable ones are skipped.
                roots
            }
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let secret =
                    PrivateKeyDer::from_pem_file(key).map_err(|error| invalid_file(key, error))?;
                let chain = read_certificates(certificate)
                    .map_err(|error| invalid_file(certificate, error))?;
                builder
                    .with_client_auth_cert(chain, secret)
                    .map_err(|error| invalid_file(certificate, error))?
            }
        };
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// Starts TLS on a connection to `HOST:PORT`.
    pub(crate) async fn connect(&self, address: &str, stream: TcpStream) -> io::Result<Stream> {
        let host = address
            .rsplit_once(':')
            .map_or(address, |(host, _)| host)
            .trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(self.config.clone())
            .connect(name, stream)
            .await?;
        Ok(Box::new(stream))
    }
}

fn invalid_file(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}
