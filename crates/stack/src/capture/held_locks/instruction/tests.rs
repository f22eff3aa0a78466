use super::*;

#[track_caller]
fn check(code: &[u8], effect: Effect) {
    assert_eq!(decode(code), Some(Instruction { len: code.len(), effect }), "{code:02x?}");
    assert_eq!(decode(&code[..code.len() - 1]), None, "incomplete: {code:02x?}");
}

#[track_caller]
fn check_set(code: &[u8], to: Register, from: Operand) {
    check(code, Effect::Set { to, from });
}

#[test]
fn registers_are_set_from_variables() {
    let (rdi, rbp, rsp, rbx) = (Register::RDI, Register::RBP, Register::RSP, Register::RBX);
    let [r12, _, r14, r15] = Register::R12_TO_R15;
    check_set(&[0x48, 0x89, 0xdf], rdi, Operand::Register(rbx)); // mov rdi, rbx
    check_set(&[0x4c, 0x89, 0xf7], rdi, Operand::Register(r14)); // mov rdi, r14
    check_set(&[0x49, 0x89, 0xff], r15, Operand::Register(rdi)); // mov r15, rdi
    check_set(&[0x89, 0xdf], rdi, Operand::Unknown); // mov edi, ebx
    check_set(&[0x48, 0x8b, 0x7d, 0xb8], rdi, Operand::Memory(rbp, -0x48)); // mov rdi, [rbp - 0x48]
    check_set(&[0x48, 0x8b, 0x3b], rdi, Operand::Memory(rbx, 0)); // mov rdi, [rbx]
    check_set(&[0x49, 0x8b, 0x3c, 0x24], rdi, Operand::Memory(r12, 0)); // mov rdi, [r12]
    check_set(&[0x48, 0x8d, 0x7d, 0xb8], rdi, Operand::Address(rbp, -0x48)); // lea rdi, [rbp - 0x48]
    check_set(&[0x48, 0x8d, 0x7c, 0x24, 0x10], rdi, Operand::Address(rsp, 0x10)); // lea rdi, [rsp + 0x10]
    check_set(&[0x48, 0x8d, 0xbc, 0x24, 0, 1, 0, 0], rdi, Operand::Address(rsp, 0x100));
    check_set(&[0x48, 0x8d, 0x3d, 1, 0, 0, 0], rdi, Operand::Relative(1)); // lea rdi, [rip + 1]
    check_set(&[0x48, 0x8b, 0x3d, 1, 0, 0, 0], rdi, Operand::RelativeWord(1)); // mov rdi, [rip + 1]
    check_set(&[0x8b, 0x3d, 1, 0, 0, 0], rdi, Operand::Unknown); // mov edi, [rip + 1]
    check_set(&[0x48, 0x8d, 0x3c, 0x03], rdi, Operand::Unknown); // lea rdi, [rbx + rax]
    check_set(&[0x48, 0x83, 0xc7, 0x18], rdi, Operand::Address(rdi, 0x18)); // add rdi, 0x18
    check_set(&[0x48, 0x81, 0xec, 0, 1, 0, 0], rsp, Operand::Address(rsp, -0x100)); // sub rsp, 0x100
    check_set(&[0x48, 0x83, 0xe4, 0xf0], rsp, Operand::Unknown); // and rsp, -16
    check(&[0x53], Effect::Push(rbx)); // push rbx
    check(&[0x41, 0x5e], Effect::Pop(r14)); // pop r14
    check(&[0x6a, 0x01], Effect::PushUnknown); // push 1
    check(&[0x68, 1, 0, 0, 0], Effect::PushUnknown); // push 1
    check(&[0xff, 0x73, 0x08], Effect::PushUnknown); // push [rbx + 8]
    check(&[0x48, 0x83, 0xf8, 0x02], Effect::Other); // cmp rax, 2
    let store = Effect::Store { base: rsp, offset: 0x10, from: rdi };
    check(&[0x48, 0x89, 0x7c, 0x24, 0x10], store); // mov [rsp + 0x10], rdi
    check(&[0x89, 0x7c, 0x24, 0x10], overwrite(&[], Some(region(rsp, 0x10, 8)))); // mov [rsp + 0x10], edi
}

#[test]
fn jumps_and_calls_have_their_distance() {
    check(&[0xe8, 0xfb, 0xff, 0xff, 0xff], Effect::Call(-5));
    check(&[0x67, 0xe8, 2, 0, 0, 0], Effect::Call(2)); // addr32 call
    check(&[0xff, 0x15, 4, 0, 0, 0], Effect::CallStored(4)); // call [rip + 4]
    check(&[0xff, 0x25, 4, 0, 0, 0], Effect::JumpStored(4)); // jmp [rip + 4]
    check(&[0xff, 0xd3], Effect::CallRegister(Register::RBX)); // call rbx
    check(&[0x41, 0xff, 0xd6], Effect::CallRegister(Register::R12_TO_R15[2])); // call r14
    check(&[0x41, 0xff, 0x54, 0x24, 0x18], Effect::CallComputed); // call [r12 + 0x18]
    check(&[0xff, 0xe0], Effect::End); // jmp rax
    check(&[0xeb, 0x10], Effect::Jump(0x10));
    check(&[0xe9, 0, 1, 0, 0], Effect::Jump(0x100));
    check(&[0x74, 0x0b], Effect::Branch(0x0b));
    check(&[0x0f, 0x85, 0, 1, 0, 0], Effect::Branch(0x100));
    check(&[0x0f, 0x0b], Effect::End); // ud2
    check(&[0xc3], Effect::End);
}

fn region(base: Register, offset: i64, len: i64) -> Region {
    Region { base, offset, len }
}

fn overwrite(registers: &[u8], memory: Option<Region>) -> Effect {
    Effect::Overwrite(Changes { registers: changes::RegisterSet::of(registers), memory })
}

#[test]
fn other_instructions_have_their_length() {
    let others: [&[u8]; 11] = [
        &[0x48, 0x83, 0x3d, 1, 0, 0, 0, 0],             // cmp qword ptr [rip + 1], 0
        &[0x48, 0xc1, 0x25, 1, 0, 0, 0, 1],             // shl qword ptr [rip + 1], 1
        &[0x41, 0xf6, 0x46, 0x08, 0x01],                // test byte ptr [r14 + 8], 1
        &[0x0f, 0x10, 0x44, 0x24, 0x20],                // movups xmm0, [rsp + 0x20]
        &[0xc5, 0xf8, 0x10, 0x44, 0x24, 0x20],          // vmovups xmm0, [rsp + 0x20]
        &[0x62, 0xf1, 0x7c, 0x48, 0x10, 0x00],          // vmovups zmm0, [rax]
        &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0], // nop word ptr cs:[rax + rax]
        &[0x80, 0x7c, 0x24, 0x30, 0x00],                // cmp byte ptr [rsp + 0x30], 0
        &[0xf3, 0x0f, 0x7e, 0x44, 0x24, 0x08],          // movq xmm0, [rsp + 8]
        &[0x90],                                        // nop
        &[0x39, 0xdf],                                  // cmp edi, ebx
    ];
    for code in others {
        check(code, Effect::Other);
    }
    let mfence = decode(&[0x0f, 0xae, 0xf0]);
    assert_eq!(mfence.map(|instruction| instruction.len), Some(3));
    assert_eq!(decode(&[]), None);
    assert_eq!(decode(&[0x66; 20]), None, "too long");
    assert_eq!(decode(&[0x06, 0, 0, 0, 0, 0]), None, "no instruction of x86_64");
    assert_eq!(decode(&[0x8f, 0xe9, 0x78, 0x01, 0xc8, 0]), None, "an instruction of XOP");
}

#[test]
fn overwritten_registers_and_memory_are_known() {
    let (rax, rcx, rdx, rbx, rsi, rdi, r14) = (0, 1, 2, 3, 6, 7, 14);
    let rsp = Register::RSP;
    let written = |base, offset, len| Some(region(base, offset, len));
    check(&[0x87, 0x03], overwrite(&[rax], written(Register::RBX, 0, 8))); // xchg [rbx], eax
    check(&[0x31, 0xc0], overwrite(&[rax], None)); // xor eax, eax
    check(&[0x31, 0xff], overwrite(&[rdi], None)); // xor edi, edi
    check(&[0x45, 0x01, 0xfe], overwrite(&[r14], None)); // add r14d, r15d
    check(&[0x01, 0xdf], overwrite(&[rdi], None)); // add edi, ebx
    check(&[0x48, 0x03, 0x3b], overwrite(&[rdi], None)); // add rdi, [rbx]
    check(&[0xf0, 0x48, 0xff, 0x0b], overwrite(&[], written(Register::RBX, 0, 8))); // lock dec qword ptr [rbx]
    check(&[0xf0, 0x0f, 0xb0, 0x0b], overwrite(&[rax], written(Register::RBX, 0, 1))); // lock cmpxchg [rbx], cl
    check(&[0xf7, 0xd8], overwrite(&[rax], None)); // neg eax
    check(&[0x48, 0xf7, 0xe3], overwrite(&[rax, rdx], None)); // mul rbx
    check(&[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8], overwrite(&[rax], None)); // movabs rax, imm64
    check(&[0xbf, 1, 0, 0, 0], overwrite(&[rdi], None)); // mov edi, 1
    check(&[0x48, 0xc7, 0xc7, 1, 0, 0, 0], overwrite(&[rdi], None)); // mov rdi, 1
    check(&[0xb7, 0x01], overwrite(&[rbx], None)); // mov bh, 1
    check(&[0x40, 0xb7, 0x01], overwrite(&[rdi], None)); // mov dil, 1
    check(&[0x66, 0xc7, 0x00, 1, 0], overwrite(&[], written(Register::VOLATILE[0], 0, 8))); // mov word ptr [rax], 1
    check(&[0xc6, 0x43, 0x04, 0x01], overwrite(&[], written(Register::RBX, 4, 1))); // mov byte ptr [rbx + 4], 1
    check(&[0xc4, 0xe3, 0x79, 0x16, 0xc0, 1], overwrite(&[rax], None)); // vpextrd eax, xmm0, 1
    check(&[0x0f, 0xb6, 0x74, 0x24, 0x04], overwrite(&[rsi], None)); // movzx esi, byte ptr [rsp + 4]
    check(&[0x48, 0x0f, 0x44, 0xfb], overwrite(&[rdi], None)); // cmove rdi, rbx
    check(&[0x48, 0x63, 0xfb], overwrite(&[rdi], None)); // movsxd rdi, ebx
    check(&[0x40, 0x0f, 0x94, 0xc7], overwrite(&[rdi], None)); // sete dil
    check(&[0x66, 0x48, 0x0f, 0x7e, 0xc7], overwrite(&[rdi], None)); // movq rdi, xmm0
    check(&[0x0f, 0x11, 0x44, 0x24, 0x20], overwrite(&[], written(rsp, 0x20, 16))); // movups [rsp + 0x20], xmm0
    check(&[0xc5, 0xfc, 0x11, 0x04, 0x24], overwrite(&[], written(rsp, 0, 64))); // vmovups [rsp], ymm0
    check(&[0xc4, 0xe2, 0xe0, 0xf2, 0xfe], overwrite(&[rdi], None)); // andn rdi, rbx, rsi
    check(&[0xc4, 0xe2, 0xc0, 0xf3, 0xcb], overwrite(&[rdi], None)); // blsr rdi, rbx
    check(&[0xc4, 0x62, 0xfb, 0xf6, 0xf3], overwrite(&[rax, r14], None)); // mulx r14, rax, rbx
    check(&[0x48, 0x93], overwrite(&[rax, rbx], None)); // xchg rax, rbx
    let copied = written(Register::RDI, 0, i64::MAX);
    check(&[0xf3, 0x48, 0xa5], overwrite(&[rsi, rdi, rcx], copied)); // rep movsq
    check(&[0x48, 0xad], overwrite(&[rax, rcx, rsi], None)); // lodsq
    check(&[0xf2, 0xae], overwrite(&[rcx, rdi], None)); // repne scasb
    check(&[0x8f, 0x03], overwrite(&[4], written(Register::RBX, 0, 8))); // pop [rbx]
}

/// Instructions with the prefix `62` have one-byte offsets in units of their operand.
#[test]
fn scaled_offsets_are_known() {
    let rsp = Register::RSP;
    let written = |offset, len| overwrite(&[], Some(region(rsp, offset, len)));
    check(&[0x62, 0xf1, 0x7c, 0x48, 0x11, 0x04, 0x24], written(0, 64)); // vmovups [rsp], zmm0
    check(&[0x62, 0xf1, 0x7c, 0x48, 0x11, 0x44, 0x24, 1], written(0x40, 64)); // vmovups [rsp + 0x40], zmm0
    check(&[0x62, 0xf1, 0xfe, 0x28, 0x7f, 0x44, 0x24, 0xff], written(-0x20, 64)); // vmovdqu64 [rsp - 0x20], ymm0
    check(&[0x62, 0xe1, 0x7e, 0x08, 0x11, 0x44, 0x24, 2], written(8, 64)); // vmovss [rsp + 8], xmm16
    check(&[0x62, 0xf1, 0x7c, 0x48, 0x11, 0x84, 0x24, 0x41, 0, 0, 0], written(0x41, 64)); // vmovups [rsp + 0x41], zmm0
    // The unit of these is not derived: 16 bytes in one, 2 in the other.
    check(&[0x62, 0xf3, 0x7d, 0x48, 0x39, 0x44, 0x24, 2, 1], written(2, 190)); // vextracti32x4 [rsp + 0x20], zmm0, 1
    check(&[0x62, 0xf2, 0x7e, 0x08, 0x32, 0x44, 0x24, 0xff], written(-64, 127)); // vpmovqb [rsp - 2], xmm0
    let indexed = [0x62, 0xb1, 0x7c, 0x48, 0x11, 0x44, 0x24, 1]; // vmovups [rsp + r12 + 0x40], zmm0
    check(&indexed, Effect::Other);
}
