//! TLS on TCP (RFC 8446), with rustls.

use std::{
    io,
    path::Path,
    sync::{Arc, RwLock},
    time::Duration,
};

use netnsd_client::tls::{read_ca_certificates, read_certificates};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, server::WebPkiClientVerifier},
    server::TlsStream,
};

use crate::settings::TlsFiles;

/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Certificate, key and client CA. They can be reloaded while connections stay open.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn new(files: TlsFiles) -> Result<Self, String> {
        let config = read(&files)?;
        Ok(Self {
            files,
            config: RwLock::new(config),
        })
    }

    /// Reads the files again, for new connections.
    ///
    /// # Errors
    /// The file that cannot be used, and why; then the files read before stay in use.
    pub fn reload(&self) -> Result<(), String> {
        let config = read(&self.files)?;
        *self
            .config
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = config;
        Ok(())
    }

    /// Does the handshake; returns the DNS names in the client's certificate, if it sent one.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Vec<String>)> {
        let config = self
            .config
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        let stream =
            tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await??;
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first);
        let names = certificate
            .and_then(|der| webpki::EndEntityCert::try_from(der).ok())
            .map(|certificate| certificate.valid_dns_names().map(str::to_owned).collect());
        Ok((stream, names.unwrap_or_default()))
    }
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>, String> {
    let wrong = |key: &str, path: &Path, error: &dyn std::fmt::Display| {
        format!("{key} is \"{}\": {error}", path.display())
    };
    let chain =
        read_certificates(&files.cert).map_err(|error| wrong("tls_cert", &files.cert, &error))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| wrong("tls_key", &files.key, &error))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("tls_cert", &files.cert, &error))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots =
                read_ca_certificates(path).map_err(|error| wrong("tls_client_ca", path, &error))?;
            // A client without a certificate may send a token.
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| wrong("tls_client_ca", path, &error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| wrong("tls_key", &files.key, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
