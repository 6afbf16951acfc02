//! Opening connections: the name's addresses, TCP, TLS, and which HTTP the host speaks.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::AtomicUsize},
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
    limit: Duration,
    tls: TlsConnector,
}

impl Dialer {
    pub fn new(timeouts: &Timeouts, tls: Tls) -> Self {
        Self { limit: Duration::from_millis(timeouts.connect_ms), tls: TlsConnector::from(tls.0) }
    }

    /// Opens a connection, ready for a request; `streams` is how many calls the host takes on one that is shared.
    pub async fn dial(&self, origin: &Origin, streams: &Arc<AtomicUsize>) -> Result<Opened, ConnectionError> {
        match timeout(self.limit, self.connect(origin, streams)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectionError::unsent(format!("no connection within {} ms", self.limit.as_millis()))),
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
    let mut found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, origin.port)],
        Err(_) => lookup_host((host, origin.port)).await.map_err(ConnectionError::unsent)?.collect(),
    };
    if origin.reach == Reach::Public {
        found.retain(|address| is_public(address.ip()));
    }
    if found.is_empty() {
        return Err(ConnectionError::unsent(format!("'{host}' stands for no address that may be connected to")));
    }
    Ok(found)
}

/// Whether an address is one of the internet at large: neither this host, nor its network, nor a cloud's metadata service.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            !(address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_documentation()
                || first == 0
                || first >= 240
                // Shared by carriers (RFC 6598), some clouds' metadata among them; benchmarking (RFC 2544).
                || (first == 100 && second & 0xc0 == 64)
                || (first == 198 && second & 0xfe == 18))
        }
        // The only block that is given out (2000::/3), without 6to4 and NAT64, which hide an IPv4 address.
        IpAddr::V6(address) => address.segments()[0] & 0xe000 == 0x2000 && address.segments()[0] != 0x2002,
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

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for text in ["8.8.8.8", "100.63.0.1", "172.32.0.1", "2606:4700::1111"] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
        let inner = "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.100.100.200 0.0.0.0 224.0.0.1 255.255.255.255 \
            ::1 :: fe80::1 fd00::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 2002:7f00:1::";
        for text in inner.split_whitespace() {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[tokio::test]
    async fn a_known_provider_does_not_lead_into_the_own_network() {
        let origin = |reach| Origin { tls: true, host: "localhost".into(), port: 443, reach };
        assert!(addresses(&origin(Reach::Any)).await.is_ok());
        assert!(addresses(&origin(Reach::Public)).await.is_err_and(|error| error.is_connect()));
    }

    #[test]
    fn certificates_that_are_none_are_refused() {
        assert!(Tls::new(Some(b"nothing")).is_err());
        assert!(Tls::new(None).is_ok());
    }
}
