//! Where an address lies: on the internet at large, in somebody's own network, or on the link, where clouds have their
//! metadata services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Clouds' services for the machine itself, which hand out its credentials, outside of the ranges for that: Alibaba, Oracle,
/// Azure.
const SERVICES: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];
/// The same over IPv6, where they have private addresses, by their first 64 bits: Amazon, Google, Oracle, Scaleway.
const SERVICES_V6: [[u16; 4]; 4] = [[0xfd00, 0xec2, 0, 0], [0xfd20, 0xce, 0, 0], [0xfd00, 0xc1, 0, 0], [0xfd00, 0x42, 0, 0]];

/// Whether an address is one of the internet at large: neither this host, nor its network, nor a cloud's metadata service.
pub fn is_public(address: IpAddr) -> bool {
    if is_on_the_link(address) {
        return false;
    }
    match plain(address) {
        IpAddr::V4(address) => {
            let [first, second, third, _] = address.octets();
            !(address.is_loopback()
                || address.is_private()
                || address.is_multicast()
                || address.is_documentation()
                || first == 0
                || first >= 240
                || (first, second, third) == (192, 0, 0)
                // Shared by carriers (RFC 6598); benchmarking (RFC 2544).
                || (first == 100 && second & 0xc0 == 64)
                || (first == 198 && second & 0xfe == 18))
        }
        IpAddr::V6(address) => {
            let [first, second, ..] = address.segments();
            // The only block that is given out is 2000::/3. In it: tunnels and other protocols (2001::/23), which may hide an
            // IPv4 address as 6to4 does; documentation.
            first & 0xe000 == 0x2000
                && first != 0x2002
                && !(first == 0x2001 && (second < 0x200 || second == 0xdb8))
                && !(first == 0x3fff && second < 0x1000)
        }
    }
}

/// Whether an address is on the link (RFC 3927, RFC 4291) or a cloud's metadata service, which is mostly there.
pub fn is_on_the_link(address: IpAddr) -> bool {
    match plain(address) {
        IpAddr::V4(address) => address.is_link_local() || SERVICES.contains(&address),
        IpAddr::V6(address) => {
            let [first, second, third, fourth, ..] = address.segments();
            first & 0xffc0 == 0xfe80 || SERVICES_V6.contains(&[first, second, third, fourth])
        }
    }
}

/// An IPv4 address that is written as an IPv6 one, as it is: mapped, or for a network's NAT64 (RFC 6052), which connects to it.
fn plain(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => IpAddr::V4(last(address)),
        other => other,
    }
}

fn last(address: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = address.octets();
    Ipv4Addr::new(a, b, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for text in ["8.8.8.8", "100.63.0.1", "172.32.0.1", "2606:4700::1111", "2001:4860:4860::8888", "64:ff9b::808:808"] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
        let inner = "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.100.100.200 0.0.0.0 224.0.0.1 255.255.255.255 \
            168.63.129.16 192.0.0.192 ::1 :: fe80::1 fd00::1 fd00:ec2::254 ::ffff:127.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 \
            64:ff9b:1::808:808 2002:7f00:1:: 2001::1 2001:db8::1 3fff::1 ff02::1";
        for text in inner.split_whitespace() {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn metadata_services_are_on_the_link() {
        let services = "169.254.169.254 169.254.170.2 100.100.100.200 192.0.0.192 168.63.129.16 fe80::a9fe:a9fe fd00:ec2::254 \
            fd00:ec2::23 fd20:ce::254 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe";
        for text in services.split_whitespace() {
            assert!(is_on_the_link(text.parse().unwrap()), "{text}");
        }
        for text in ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.1", "100.64.0.1", "fd00::1", "fd12:3456::254", "8.8.8.8"] {
            assert!(!is_on_the_link(text.parse().unwrap()), "{text}");
        }
    }
}
