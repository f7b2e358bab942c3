//! How a product becomes text, and text becomes words. The choice of fields is data of the bundle.

use serde::Deserialize;

use crate::bundle::parse_json;
use crate::error::{Error, Result};
use crate::wire;

/// Fields a bundle may name, in no particular order.
pub const FIELDS: [&str; 6] = [
    "title",
    "brand",
    "category",
    "bullets",
    "description",
    "attributes",
];

/// The `product` part of `text.json`: which fields make up the text of a product.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ProductFields {
    /// Fields of the dense vector.
    pub dense_fields: Vec<String>,
    /// Fields of the token vectors; equal to `dense_fields` in schema 1, where both come out of one forward pass.
    pub token_fields: Vec<String>,
    /// Fields a cross-encoder reads.
    pub cross_fields: Vec<String>,
}

/// `text.json`: fields and limits. All limits count tokens without `[CLS]` and `[SEP]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct TextConfig {
    /// Fields of a product's text.
    pub product: ProductFields,
    /// Tokens of a product that the encoder reads.
    pub dense_tokens_max: usize,
    /// Token vectors of a product that are kept.
    pub late_tokens_max: usize,
    /// Tokens of a product that a cross-encoder reads.
    pub cross_tokens_max: usize,
    /// Tokens of a query that the models read.
    pub query_tokens_max: usize,
}

impl TextConfig {
    /// Reads and checks the text of `text.json`.
    pub fn parse(text: &str) -> Result<TextConfig> {
        let config: TextConfig = parse_json("text.json", text)?;
        config.validate()?;
        Ok(config)
    }

    /// Refuses limits of 0 or beyond 512, fields that do not exist, and token fields that differ from the dense ones.
    pub fn validate(&self) -> Result<()> {
        let refuse = |reason: String| Err(Error::Bundle(format!("text.json: {reason}")));
        for (name, limit) in [
            ("dense_tokens_max", self.dense_tokens_max),
            ("late_tokens_max", self.late_tokens_max),
            ("cross_tokens_max", self.cross_tokens_max),
            ("query_tokens_max", self.query_tokens_max),
        ] {
            if !(1..=512).contains(&limit) {
                return refuse(format!("{name} is {limit}; accepted: 1 to 512"));
            }
        }
        let product = &self.product;
        for field in product
            .dense_fields
            .iter()
            .chain(&product.token_fields)
            .chain(&product.cross_fields)
        {
            if !FIELDS.contains(&field.as_str()) {
                return refuse(format!(
                    "unknown field {field:?}; accepted: {}",
                    FIELDS.join(", ")
                ));
            }
        }
        if product.dense_fields.is_empty() || product.cross_fields.is_empty() {
            return refuse("a product text needs at least one field".into());
        }
        if product.dense_fields != product.token_fields {
            return refuse("token_fields must equal dense_fields in schema 1".into());
        }
        Ok(())
    }
}

/// The text of a product: its non-empty `fields`, in the order given, joined by one space.
///
/// A category is its path joined by `" > "`, leaf last; bullets are joined by `". "`; attributes are
/// `name value` pairs sorted by name and joined by `", "`. Unknown field names contribute nothing
/// ([`TextConfig::validate`] refuses them before).
pub fn product_text(product: &wire::Product, fields: &[String]) -> String {
    let mut text = String::with_capacity(256);
    for field in fields {
        let start = text.len();
        if start > 0 {
            text.push(' ');
        }
        let filled = text.len();
        match field.as_str() {
            "title" => text.push_str(&product.title),
            "brand" => text.push_str(&product.brand),
            "category" => text.push_str(&product.category.join(" > ")),
            "bullets" => text.push_str(&product.bullets.join(". ")),
            "description" => text.push_str(&product.description),
            "attributes" => {
                let mut pairs: Vec<(&String, &String)> = product.attributes.iter().collect();
                pairs.sort();
                for (index, (name, value)) in pairs.into_iter().enumerate() {
                    if index > 0 {
                        text.push_str(", ");
                    }
                    text.push_str(name);
                    text.push(' ');
                    text.push_str(value);
                }
            }
            _ => {}
        }
        if text.len() == filled {
            text.truncate(start);
        }
    }
    text
}

/// Lower-cased words of a text: maximal runs of alphanumeric characters, in order, repeats kept.
pub fn words(text: &str) -> Vec<String> {
    text.split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product() -> wire::Product {
        wire::Product {
            product_id: "p".into(),
            title: "Trail Shoe".into(),
            brand: "Acme".into(),
            category: vec!["Sports".into(), "Shoes".into()],
            bullets: vec!["Light".into(), "Dry".into()],
            attributes: [("size", "42"), ("colour", "red")]
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            ..Default::default()
        }
    }

    fn fields(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn fields_are_joined_in_the_order_named() {
        for (names, expected) in [
            (&["title"][..], "Trail Shoe"),
            (&["brand", "title"], "Acme Trail Shoe"),
            (&["title", "category"], "Trail Shoe Sports > Shoes"),
            (&["bullets", "title"], "Light. Dry Trail Shoe"),
            (&["attributes"], "colour red, size 42"),
        ] {
            assert_eq!(product_text(&product(), &fields(names)), expected);
        }
    }

    #[test]
    fn empty_fields_leave_no_double_space() {
        let text = product_text(
            &product(),
            &fields(&[
                "description",
                "title",
                "description",
                "brand",
                "description",
            ]),
        );
        assert_eq!(text, "Trail Shoe Acme");
    }

    #[test]
    fn words_are_lower_case_and_split_at_punctuation() {
        assert_eq!(
            words("50ml  Crème-Brûlée, N°5!"),
            ["50ml", "crème", "brûlée", "n", "5"]
        );
        assert!(words(" -- ").is_empty());
    }

    #[test]
    fn limits_and_fields_outside_the_schema_are_refused() {
        let good = TextConfig {
            product: ProductFields {
                dense_fields: fields(&["title"]),
                token_fields: fields(&["title"]),
                cross_fields: fields(&["title"]),
            },
            dense_tokens_max: 64,
            late_tokens_max: 48,
            cross_tokens_max: 48,
            query_tokens_max: 32,
        };
        assert!(good.validate().is_ok());
        let mut unknown = good.clone();
        unknown.product.cross_fields = fields(&["colour"]);
        assert!(
            unknown
                .validate()
                .unwrap_err()
                .to_string()
                .contains("colour")
        );
        let mut zero = good.clone();
        zero.query_tokens_max = 0;
        assert!(
            zero.validate()
                .unwrap_err()
                .to_string()
                .contains("query_tokens_max")
        );
        let mut differing = good;
        differing.product.token_fields = fields(&["brand"]);
        assert!(differing.validate().is_err());
    }
}
