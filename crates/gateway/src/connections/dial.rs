//! Opening connections: the name's addresses, TCP, TLS, and which HTTP the host speaks.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::{TcpStream, lookup_host},
    time::{sleep, timeout},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::{
    ConnectionError, Origin, Reach,
    http1::{Http1, Stream},
    http2::Http2,
    place,
};
use crate::config::Timeouts;

/// How much earlier the first family of addresses is tried than the other (RFC 8305 has 250 ms).
const HEAD_START: Duration = Duration::from_millis(250);

/// A connection that has just been opened, or a place on one that is shared.
pub enum Opened {
    Http1(Http1),
    Http2(Http2),
}

/// How TLS connections are made: whose certificates are trusted.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

impl Tls {
    /// The public authorities, and those of `ca`, as PEM.
    ///
    /// # Errors
    /// Where `ca` holds no certificate, or one that cannot be used.
    pub fn new(ca: Option<&[u8]>) -> Result<Self, String> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(text) = ca {
            let mut count = 0;
            for certificate in CertificateDer::pem_slice_iter(text) {
                let certificate = certificate.map_err(|error| format!("a certificate cannot be read: {error}"))?;
                roots.add(certificate).map_err(|error| format!("a certificate cannot be used: {error}"))?;
                count += 1;
            }
            if count == 0 {
                return Err("it holds no certificate (PEM is wanted)".to_owned());
            }
        }
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

/// Opens connections.
pub struct Dialer {
    /// In milliseconds.
    limit: AtomicU64,
    tls: TlsConnector,
}

impl Dialer {
    pub fn new(timeouts: &Timeouts, tls: Tls) -> Self {
        Self { limit: AtomicU64::new(timeouts.connect_ms), tls: TlsConnector::from(tls.0) }
    }

    /// Gives connections that are opened from now on so long to stand.
    pub fn allow(&self, timeouts: &Timeouts) {
        self.limit.store(timeouts.connect_ms, Relaxed);
    }

    /// Opens a connection, ready for a request; `streams` is how many calls the host takes on one that is shared.
    pub async fn dial(&self, origin: &Origin, streams: &Arc<AtomicUsize>) -> Result<Opened, ConnectionError> {
        let limit = self.limit.load(Relaxed);
        match timeout(Duration::from_millis(limit), self.connect(origin, streams)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectionError::unsent(format!("no connection within {limit} ms"))),
        }
    }

    async fn connect(&self, origin: &Origin, streams: &Arc<AtomicUsize>) -> Result<Opened, ConnectionError> {
        let addresses = addresses(origin).await?;
        let stream = race(&addresses).await.map_err(ConnectionError::unsent)?;
        stream.set_nodelay(true).map_err(ConnectionError::unsent)?;
        if !origin.tls {
            return Ok(Opened::Http1(Http1::new(Stream::Plain(stream))));
        }
        let name = ServerName::try_from(bare(&origin.host).to_owned()).map_err(ConnectionError::unsent)?;
        let stream = self.tls.connect(name, stream).await.map_err(ConnectionError::unsent)?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            return Ok(Opened::Http2(Http2::handshake(stream, streams).await?));
        }
        Ok(Opened::Http1(Http1::new(Stream::Tls(Box::new(stream)))))
    }
}

/// A host as it is looked up: an IPv6 address without its brackets.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}

async fn addresses(origin: &Origin) -> Result<Vec<SocketAddr>, ConnectionError> {
    let host = bare(&origin.host);
    let (all, literal): (Vec<SocketAddr>, bool) = match host.parse::<IpAddr>() {
        Ok(address) => (vec![SocketAddr::new(address, origin.port)], true),
        Err(_) => (lookup_host((host, origin.port)).await.map_err(ConnectionError::unsent)?.collect(), false),
    };
    let allowed = |address: &IpAddr| match origin.reach {
        Reach::Public => place::is_public(*address),
        Reach::Configured => literal || !place::is_on_the_link(*address),
    };
    let (found, others): (Vec<SocketAddr>, Vec<SocketAddr>) = all.into_iter().partition(|address| allowed(&address.ip()));
    match (found.is_empty(), others.first()) {
        (false, _) => Ok(found),
        (true, Some(other)) => {
            let other = other.ip();
            Err(ConnectionError::forbidden(format!("'{host}' stands for {other}, where requests to it may not go")))
        }
        (true, None) => Err(ConnectionError::unsent(format!("'{host}' stands for no address"))),
    }
}

/// Connects to the first address that answers: one family's in their order, and after a moment the other's beside them.
async fn race(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (preferred, others): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.iter().partition(|address| address.is_ipv4() == first);
    if others.is_empty() {
        return TcpStream::connect(&*preferred).await;
    }
    let mut early = std::pin::pin!(TcpStream::connect(&*preferred));
    tokio::select! {
        connected = &mut early => return match connected {
            Ok(stream) => Ok(stream),
            Err(_) => TcpStream::connect(&*others).await,
        },
        () = sleep(HEAD_START) => {}
    }
    let mut late = std::pin::pin!(TcpStream::connect(&*others));
    tokio::select! {
        connected = &mut early => match connected {
            Ok(stream) => Ok(stream),
            Err(_) => late.await,
        },
        connected = &mut late => match connected {
            Ok(stream) => Ok(stream),
            Err(_) => early.await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(host: &str, reach: Reach) -> Result<Vec<SocketAddr>, ConnectionError> {
        addresses(&Origin { tls: true, host: host.into(), port: 443, reach }).await
    }

    #[tokio::test]
    async fn a_known_provider_does_not_lead_into_the_own_network() {
        for host in ["localhost", "127.0.0.1", "[::1]", "10.1.2.3", "2130706433"] {
            assert!(found(host, Reach::Configured).await.is_ok(), "{host}");
            assert!(found(host, Reach::Public).await.is_err_and(|error| error.is_forbidden()), "{host}");
        }
        assert!(found("8.8.8.8", Reach::Public).await.is_ok());
    }

    #[tokio::test]
    async fn metadata_services_are_reached_by_their_address_only() {
        for host in ["169.254.169.254", "[fd00:ec2::254]"] {
            assert!(found(host, Reach::Configured).await.is_ok(), "{host}");
            assert!(found(host, Reach::Public).await.is_err(), "{host}");
        }
        // Names, as far as a resolver is concerned: it knows the old ways to write an address.
        for host in ["2852039166", "0xa9fea9fe", "169.254.43518", "0251.0376.0251.0376"] {
            assert!(found(host, Reach::Configured).await.is_err_and(|error| error.is_forbidden()), "{host}");
        }
    }

    #[test]
    fn certificates_that_are_none_are_refused() {
        assert!(Tls::new(Some(b"nothing")).is_err());
        assert!(Tls::new(None).is_ok());
    }
}
