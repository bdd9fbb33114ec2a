//! Who is at the other end, and whether they may give orders.

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use springhouse_api::ApiError;
use std::net::{IpAddr, SocketAddr};

/// The address at the other end of the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Admin paths are for this machine, unless the settings say otherwise, and never for web pages: a browser sends `Origin`
/// with every cross-site POST, and a page that had its own name resolve to this machine still sends that name as `Host`.
pub(crate) fn check_admin(request: &Request, admin_remote: bool) -> Result<(), ApiError> {
    let refused = |why| Err(ApiError::new("forbidden_origin", why));
    let local = request.extensions().get::<Peer>().is_some_and(|peer| is_loopback(peer.0.ip()));
    if !local && !admin_remote {
        return refused("admin paths answer only this machine").map_err(|e: ApiError| {
            e.hint("run the command on the server's machine, or set `server.admin_remote`")
        });
    }
    if request.headers().contains_key(header::ORIGIN) {
        return refused("admin paths answer no web pages");
    }
    if !admin_remote && !host_is_local(request.headers(), request.uri().host()) {
        return refused(
            "admin paths answer only to the machine's own name, such as `localhost` or `127.0.0.1`",
        );
    }
    Ok(())
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// HTTP/2 has the name in the URI, HTTP/1 in a header.
fn host_is_local(headers: &HeaderMap, uri_host: Option<&str>) -> bool {
    let Some(host) = uri_host.or_else(|| headers.get(header::HOST)?.to_str().ok()) else { return true };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn allowed(peer: &str, headers: &[(&str, &str)], admin_remote: bool) -> bool {
        let mut request = Request::builder().uri("/v1/admin/flush");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer(peer.parse().unwrap()));
        check_admin(&request, admin_remote).is_ok()
    }

    #[test]
    fn only_this_machine_and_no_web_page() {
        assert!(allowed("127.0.0.1:5", &[("host", "127.0.0.1:8765")], false));
        assert!(allowed("[::1]:5", &[("host", "[::1]:8765")], false));
        assert!(allowed("[::ffff:127.0.0.1]:5", &[("host", "LOCALHOST")], false));
        assert!(!allowed("10.0.0.7:5", &[("host", "127.0.0.1:8765")], false));
        assert!(!allowed("127.0.0.1:5", &[("host", "evil.example:8765")], false), "a rebound name");
        assert!(!allowed("127.0.0.1:5", &[("host", "localhost.evil.example")], false));
        assert!(!allowed("127.0.0.1:5", &[("host", "localhost"), ("origin", "http://localhost")], false));
        assert!(allowed("10.0.0.7:5", &[("host", "features.internal")], true));
        assert!(!allowed("10.0.0.7:5", &[("host", "a"), ("origin", "http://b")], true));
    }
}
