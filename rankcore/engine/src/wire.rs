//! Messages of `proto/muster/v1`, generated at build time.

#![allow(missing_docs, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/muster.v1.rs"));

/// A product from its serialised form; malformed bytes are [`crate::error::Error::InvalidRequest`].
pub fn decode_product(bytes: &[u8]) -> crate::error::Result<Product> {
    prost::Message::decode(bytes).map_err(|error| {
        crate::error::Error::InvalidRequest(vec![crate::error::Violation {
            field: "product".into(),
            description: format!("not a serialised Product: {error}"),
        }])
    })
}
