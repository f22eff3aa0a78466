//! The errors of the attributes. `TRYBUILD=overwrite` writes the expected texts anew.

#[test]
fn the_attributes_refuse_with_a_reason_and_a_location() {
    trybuild::TestCases::new().compile_fail("cases/*.rs");
}
