//! What sinks that speak TLS have in common.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::error::{Error, Result};

/// The certificates in a PEM text, which a connection can trust.
pub(super) fn roots(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let bad = |why| Error::invalid("root certificates", "", why);
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|_| bad("they are not PEM"))?;
    let mut store = rustls::RootCertStore::empty();
    for certificate in &read {
        store.add(certificate.clone()).map_err(|_| bad("one of them is damaged"))?;
    }
    if read.is_empty() { Err(bad("there is none")) } else { Ok(read) }
}
