//! The words are those of an assembler.

use super::*;

const AT: u64 = 0x10_0000;
const RET: u32 = 0xd65f_03c0;

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn size(words: &[u32]) -> Option<u64> {
    frame_size(&bytes(words))
}

#[test]
fn calls_and_jumps() {
    assert_eq!(call(0x9400_0031, AT), Some(Call::Direct(AT + 0xc4)));
    assert_eq!(call(0x97ff_ffcb, AT), Some(Call::Direct(AT - 0xd4)), "bl backwards");
    // blr x8; blraa x8, x9; blraaz x8; blrab x8, x9
    for indirect in [0xd63f_0100, 0xd73f_0909, 0xd63f_091f, 0xd73f_0d09] {
        assert_eq!(call(indirect, AT), Some(Call::Indirect), "{indirect:x}");
    }
    // br x8; ret; braa x8, x9; b; nop; svc 0
    for other in [0xd61f_0100, RET, 0xd71f_0909, 0x17ff_ffca, 0xd503_201f, 0xd400_0001] {
        assert_eq!(call(other, AT), None, "{other:x}");
    }
    assert_eq!(jump(0x17ff_ffca, AT), Some(AT - 0xd8));
    assert_eq!(jump(0x9400_0031, AT), None, "bl");
    assert_eq!(call(0x9400_0001, u64::MAX - 3), Some(Call::Direct(0)), "no overflow");
}

#[test]
fn stubs_of_the_procedure_linkage_table() {
    // adrp x16, page + 0x20000; ldr x17, [x16, #0x238]; add x16, x16, #0x238; br x17
    let stub = [0x9000_0110, 0xf941_1e11, 0x9108_e210, 0xd61f_0220];
    assert_eq!(stub_slot(&stub, AT + 0x14), Some(AT + 0x2_0238));
    let with_bti = [&[0xd503_245f], &stub[..]].concat();
    assert_eq!(stub_slot(&with_bti, AT + 0xffc), Some(AT + 0x2_1238), "adrp is on the next page");
    // adrp x16, page - 0x1000
    let before = [0xf0ff_fff0, 0xf941_1e11, 0x9108_e210, 0xd61f_0220];
    assert_eq!(stub_slot(&before, AT), Some(AT - 0x1000 + 0x238));
    assert_eq!(with_bti.len(), STUB);
    for short in 0..4 {
        assert_eq!(stub_slot(&stub[..short], AT), None);
    }
    let mut other = stub;
    other[3] = RET;
    assert_eq!(stub_slot(&other, AT), None);
}

#[test]
fn frame_pointers_of_usual_prologues() {
    // paciasp; sub sp, sp, #0x40; stp x29, x30, [sp, #0x30]; stp x20, x19, [sp, #0x20];
    // add x29, sp, #0x30; mov x19, x0; bl
    let small = [0xd503_233f, 0xd101_03ff, 0xa903_7bfd, 0xa902_4ff4, 0x9100_c3fd, 0xaa00_03f3, 0x9400_0031];
    assert_eq!(size(&small), Some(0x30));
    // stp x29, x30, [sp, #-0x30]!; str x28, [sp, #0x10]; stp x20, x19, [sp, #0x20]; mov x29, sp;
    // sub sp, sp, #1, lsl #12; sub sp, sp, #0x230; b
    let large = [0xa9bd_7bfd, 0xf900_0bfc, 0xa902_4ff4, 0x9100_03fd, 0xd140_07ff, 0xd108_c3ff, 0x1400_002a];
    assert_eq!(size(&large), Some(0x1230));
    // stp d9, d8, [sp, #-0x50]!; stp x29, x30, [sp, #0x10]; add x29, sp, #0x10;
    // str x19, [sp, #-0x10]!; str q0, [sp, #-0x20]!; stp q0, q1, [sp, #-0x20]!; ret
    let indexed = [0x6dbb_23e9, 0xa901_7bfd, 0x9100_43fd, 0xf81f_0ff3, 0x3c9e_0fe0, 0xadbf_07e0, RET];
    assert_eq!(size(&indexed), Some(0x10 + 0x10 + 0x20 + 0x20));
    // stp x29, x30, [sp, #-0x10]!; mov x29, sp; ldp x29, x30, [sp], #0x10; ret
    assert_eq!(size(&[0xa9bf_7bfd, 0x9100_03fd, 0xa8c1_7bfd, RET]), Some(0));
}

#[test]
fn frames_that_are_probed() {
    // stp x29, x30, [sp, #-0x20]!; mov x29, sp; sub x9, sp, #5, lsl #12; sub sp, sp, #1, lsl #12;
    // str xzr, [sp]; cmp sp, x9; b.ne; sub sp, sp, #0x120; cbz
    let probed = [
        0xa9be_7bfd,
        0x9100_03fd,
        0xd140_17e9,
        0xd140_07ff,
        0xf900_03ff,
        0xeb29_63ff,
        0x54ff_ffa1,
        0xd104_83ff,
        0xb4ff_fc60,
    ];
    assert_eq!(size(&probed), Some(0x5120));
    let mut another_register = probed;
    another_register[5] = 0xeb2a_63ff;
    assert_eq!(size(&another_register), None);
}

#[test]
fn frames_of_unknown_size() {
    // mov x8, x0; svc 0; ret
    assert_eq!(size(&[0xaa00_03e8, 0xd400_0001, RET]), None, "no frame pointer");
    // ..; sub x9, sp, #0x1d0; and sp, x9, #-128
    assert_eq!(size(&[0xa9be_7bfd, 0x9100_03fd, 0xd107_43e9, 0x9279_e13f]), None, "aligned at run time");
    // ..; sub sp, sp, x9
    assert_eq!(size(&[0xa9bf_7bfd, 0x9100_03fd, 0xcb29_63ff]), None);
    assert_eq!(size(&[]), None);
    assert_eq!(frame_size(&[0xfd]), None);
}

#[test]
fn any_word_is_decoded_without_a_panic() {
    let mut word = 1u32;
    for at in 0..200_000u64 {
        // A linear congruential generator of full period.
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let address = u64::MAX.wrapping_mul(at);
        let code = [word, word.rotate_left(7), word.swap_bytes(), 0xd140_07ff, word];
        std::hint::black_box((call(word, address), jump(word, address), stub_slot(&code, address), size(&code)));
    }
}
