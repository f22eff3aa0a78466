//! The response to a rejected request.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::routes::is_grpc;

/// The parts of the response to rejected requests.
#[derive(Debug)]
pub(crate) struct Rejection {
    /// The value of `Retry-After`, in seconds.
    retry_after: HeaderValue,
    /// The value of `grpc-retry-pushback-ms`, in milliseconds.
    pushback: HeaderValue,
}

impl Rejection {
    /// Makes responses that ask clients to retry after this time.
    pub(crate) fn new(retry_after: Duration) -> Rejection {
        let seconds = retry_after.as_secs().saturating_add(u64::from(retry_after.subsec_nanos() > 0));
        Rejection {
            retry_after: seconds.into(),
            pushback: u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX).into(),
        }
    }

    /// Returns the response to a request with these headers.
    pub(crate) fn response(&self, request: &HeaderMap) -> Response<()> {
        /// The code of gRPC's status UNAVAILABLE.
        const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");
        const MESSAGE: HeaderValue = HeaderValue::from_static("overloaded");
        let mut response = Response::new(());
        if is_grpc(request) {
            let headers = response.headers_mut();
            let kind = request.get(CONTENT_TYPE).filter(|kind| kind.as_bytes().starts_with(b"application/grpc-web"));
            headers.insert(CONTENT_TYPE, kind.cloned().unwrap_or(HeaderValue::from_static("application/grpc")));
            headers.insert(HeaderName::from_static("grpc-status"), UNAVAILABLE);
            headers.insert(HeaderName::from_static("grpc-message"), MESSAGE);
            headers.insert(HeaderName::from_static("grpc-retry-pushback-ms"), self.pushback.clone());
        } else {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response.headers_mut().insert(RETRY_AFTER, self.retry_after.clone());
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        response
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn header<'a>(response: &'a Response<()>, name: &str) -> Option<&'a str> {
        response.headers().get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn http_requests_get_503_with_retry_after() {
        let response = Rejection::new(Duration::from_millis(2_001)).response(&HeaderMap::new());
        assert_eq!((response.status().as_u16(), header(&response, "retry-after")), (503, Some("3")));
        assert_eq!((header(&response, "content-length"), header(&response, "grpc-status")), (Some("0"), None));
    }

    #[test]
    fn grpc_requests_get_unavailable() {
        for (sent, answered) in [
            ("application/grpc", "application/grpc"),
            ("application/grpc+proto", "application/grpc"),
            ("application/grpc-web+proto", "application/grpc-web+proto"),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, sent.parse().unwrap())]);
            let response = Rejection::new(Duration::from_secs(1)).response(&headers);
            assert_eq!((response.status().as_u16(), header(&response, "retry-after")), (200, None));
            assert_eq!(header(&response, "content-type"), Some(answered));
            let status = (header(&response, "grpc-status"), header(&response, "grpc-message"));
            assert_eq!(status, (Some("14"), Some("overloaded")));
            assert_eq!(header(&response, "grpc-retry-pushback-ms"), Some("1000"));
        }
    }
}
