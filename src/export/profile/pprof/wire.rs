//! The wire format of protocol buffers, as far as pprof's messages need it: numbers, texts, packed
//! lists and nested messages (<https://protobuf.dev/programming-guides/encoding/>).
//!
//! A library for the format would add a derive macro and its dependencies to every service, for one
//! message that is only written. The tests read what is written here with such a library.

/// The wire types, which the low three bits of a field's tag hold.
const VARINT: u64 = 0;
const LENGTH_DELIMITED: u64 = 2;

/// The encoded fields of a message.
#[derive(Default)]
pub(super) struct EncodedMessage(Vec<u8>);

impl EncodedMessage {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Appends a field of the type `int64`, or none for the default value.
    pub(super) fn int(&mut self, field: u32, value: i64) {
        // Negative numbers take all ten bytes, as the type `int64` wants it.
        self.uint(field, value.cast_unsigned());
    }

    /// Appends a field of the type `uint64`, or none for the default value.
    pub(super) fn uint(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.tag(field, VARINT);
            self.varint(value);
        }
    }

    /// Appends a field of the type `bool`, or none for the default value.
    pub(super) fn bool(&mut self, field: u32, value: bool) {
        self.uint(field, value.into());
    }

    /// Appends an element of a field of texts. An empty text is an element too.
    pub(super) fn text(&mut self, field: u32, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    /// Appends an element of a field of messages.
    pub(super) fn message(&mut self, field: u32, message: &EncodedMessage) {
        self.bytes(field, &message.0);
    }

    /// Appends a field of several numbers, or none if there are none.
    pub(super) fn packed(&mut self, field: u32, values: impl IntoIterator<Item = u64>) {
        let mut packed = EncodedMessage::default();
        values.into_iter().for_each(|value| packed.varint(value));
        if !packed.0.is_empty() {
            self.message(field, &packed);
        }
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.tag(field, LENGTH_DELIMITED);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn tag(&mut self, field: u32, wire_type: u64) {
        self.varint(u64::from(field) << 3 | wire_type);
    }

    /// Appends seven bits a byte, the lowest first. All bytes but the last have the highest bit
    /// set.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use prost::Message;

    use super::*;

    #[derive(Clone, PartialEq, Message)]
    struct AllTypes {
        #[prost(int64, tag = "1")]
        int: i64,
        #[prost(uint64, tag = "16")]
        uint: u64,
        #[prost(bool, tag = "2047")]
        bool: bool,
        #[prost(string, repeated, tag = "2048")]
        texts: Vec<String>,
        #[prost(message, repeated, tag = "5")]
        messages: Vec<AllTypes>,
        #[prost(int64, repeated, tag = "6")]
        ints: Vec<i64>,
    }

    fn encoded(message: &AllTypes) -> EncodedMessage {
        let mut fields = EncodedMessage::default();
        fields.int(1, message.int);
        message.messages.iter().for_each(|inner| fields.message(5, &encoded(inner)));
        fields.packed(6, message.ints.iter().map(|int| int.cast_unsigned()));
        fields.uint(16, message.uint);
        fields.bool(2047, message.bool);
        message.texts.iter().for_each(|text| fields.text(2048, text));
        fields
    }

    /// Numbers around each length of a varint.
    fn numbers() -> impl Iterator<Item = u64> {
        (0..64).map(|bits| 1 << bits).flat_map(|n: u64| [n - 1, n, n + 1]).chain([u64::MAX])
    }

    #[test]
    fn what_is_written_is_what_prost_writes() {
        for n in numbers() {
            let inner = AllTypes { int: n.cast_signed(), ints: vec![0, n.cast_signed()], ..Default::default() };
            let message = AllTypes {
                uint: n,
                bool: n % 2 == 0,
                texts: vec![String::new(), "ä".repeat(n.min(200) as usize)],
                messages: vec![AllTypes::default(), inner.clone()],
                ..inner
            };
            assert_eq!(encoded(&message).into_bytes(), message.encode_to_vec());
        }
    }

    #[test]
    fn a_message_of_defaults_has_no_bytes() {
        assert!(encoded(&AllTypes::default()).into_bytes().is_empty());
    }
}
