//! TLS to a broker that is a server of its own. A certificate is always verified.

use std::{fs::File, io::BufReader, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::{ConnectError, server::Server};

/// Returns what verifies the server's certificate. A server without TLS needs no authority.
///
/// # Errors
/// If there is no certificate authority that can be used.
pub(super) fn config(server: &Server) -> Result<ClientConfig, ConnectError> {
    let mut roots = RootCertStore::empty();
    match &server.login.ca_file {
        _ if !server.tls => {}
        Some(path) => {
            let unusable =
                |why: String| ConnectError::new(format!("the file of the certificate authority {why}"));
            let file = File::open(path).map_err(|error| unusable(format!("cannot be read: {error}")))?;
            for certificate in CertificateDer::pem_reader_iter(BufReader::new(file)) {
                let certificate = certificate.map_err(|error| unusable(format!("is not PEM: {error}")))?;
                roots.add(certificate).map_err(|error| unusable(format!("cannot be used: {error}")))?;
            }
            if roots.is_empty() {
                return Err(unusable("holds no certificate".to_owned()));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(ConnectError::new(
                    "this system has no certificate authorities: name a file of them",
                ));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = versions.map_err(ConnectError::new)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
