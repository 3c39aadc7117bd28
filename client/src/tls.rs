//! TLS to the daemon, by rustls.

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
/// What is wrong with the file.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match all.map_err(|error| error.to_string())? {
        none if none.is_empty() => Err("it holds no certificate in PEM".into()),
        all => Ok(all),
    }
}

/// Reads the certificates of a file (PEM) as those that vouch for others.
///
/// # Errors
/// What is wrong with the file.
pub fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

/// Who vouches for the daemon, and what the client shows of itself.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
}

impl Tls {
    /// The certificates of `ca` (PEM), or the system's, vouch for the daemon; `own` are the files
    /// of a certificate and its key (PEM) to show.
    ///
    /// # Errors
    /// A file that cannot be read, or is none of that.
    pub fn new(ca: Option<&Path>, own: Option<(&Path, &Path)>) -> io::Result<Self> {
        let wrong = |path: &Path, error: &dyn std::fmt::Display| {
            io::Error::other(format!("{}: {error}", path.display()))
        };
        let roots = match ca {
            Some(path) => authorities(path).map_err(|error| wrong(path, &error))?,
            None => {
                let mut roots = RootCertStore::empty();
                let _unusable =
                    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
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
                    PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, &error))?;
                let chain =
                    certificates(certificate).map_err(|error| wrong(certificate, &error))?;
                builder
                    .with_client_auth_cert(chain, secret)
                    .map_err(|error| wrong(certificate, &error))?
            }
        };
        Ok(Self {
            config: Arc::new(config),
        })
    }

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
