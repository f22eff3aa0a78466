//! An axum server on the fixture's runtime.

use std::net::SocketAddr;

use axum::Router;
use test_support::LayerFixture;

/// Serves an application on the fixture's runtime, and returns its address.
pub(crate) fn serve(fixture: &LayerFixture, app: Router) -> SocketAddr {
    fixture.serve(|listener| async move { axum::serve(listener, app).await })
}
