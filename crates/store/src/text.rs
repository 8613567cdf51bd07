//! Bytes in JSON: as text where they are text, otherwise as `{"hex": "…"}`.

/// For `#[serde(with = …)]`.
pub(crate) mod bytes {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize, Serialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Hex { hex: String },
    }

    fn form(bytes: &[u8]) -> Form {
        match std::str::from_utf8(bytes) {
            Ok(text) => Form::Text(text.to_owned()),
            Err(_) => Form::Hex { hex: bytes.iter().map(|b| format!("{b:02x}")).collect() },
        }
    }

    fn unform(form: Form) -> Option<Vec<u8>> {
        match form {
            Form::Text(text) => Some(text.into_bytes()),
            Form::Hex { hex } => {
                if hex.len() % 2 != 0 || !hex.is_ascii() {
                    return None;
                }
                let byte = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
                (0..hex.len()).step_by(2).map(byte).collect()
            }
        }
    }

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        form(bytes).serialize(out)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        unform(Form::deserialize(from)?).ok_or_else(|| D::Error::custom("not hexadecimal"))
    }

    /// The same for bytes that may be absent.
    pub(crate) mod option {
        use super::*;

        pub(crate) fn serialize<S: Serializer>(
            bytes: &Option<Vec<u8>>,
            out: S,
        ) -> Result<S::Ok, S::Error> {
            bytes.as_deref().map(form).serialize(out)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<Vec<u8>>, D::Error> {
            let Some(form) = Option::<Form>::deserialize(from)? else { return Ok(None) };
            unform(form).map(Some).ok_or_else(|| D::Error::custom("not hexadecimal"))
        }
    }
}
