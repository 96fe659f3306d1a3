// Weights in the device's layout: a row is cut into blocks of 32 elements, 32 rows make a panel, and in a panel words of the same
// kind and block lie side by side, a row a lane. FORMAT is a quire_format.
//
// Planes, in uints, of (panel, block, row): quants at ((panel * blocks + block) * Q + word) * 32 + row where a word may be a uvec2 or
// uvec4; high (fifth and sixth bits) likewise; aux (scales) per super-block of super_blocks blocks. Element i < 16 of a 4-bit block is
// the low nibble of byte i, element 16 + i the high one, as in GGUF; the K formats are brought into the same order when loaded
// (backends/vulkan/repack.cpp). Padding blocks and rows are zero, scales included, and so unpack to 0.
//
// Use: load_aux once a super-block, scale_of and load_quants once a block, octet_of once for u of 0 to 3, unpack(.., j) for element
// 8 u + j. Of formats with FORMAT_WIDE there is more than that to load: load_octet takes the place of load_quants and octet_of.
#ifndef QUIRE_WEIGHTS_GLSL
#define QUIRE_WEIGHTS_GLSL

// A plane's words, word pairs and word quads. TEXELS: planes are not addresses but bytes in a buffer that is seen through texel views:
// llvmpipe loads an address lane by lane in a loop, texels in straight vector code (several times as fast).
#ifdef TEXELS
layout(set = 1, binding = 1) uniform usamplerBuffer weights1;
layout(set = 1, binding = 2) uniform usamplerBuffer weights2;
layout(set = 1, binding = 3) uniform usamplerBuffer weights4;
uint load1(uint64_t plane, uint i) { return texelFetch(weights1, int((uint(plane) >> 2) + i)).x; }
uvec2 load2(uint64_t plane, uint i) { return texelFetch(weights2, int((uint(plane) >> 3) + i)).xy; }
uvec4 load4(uint64_t plane, uint i) { return texelFetch(weights4, int((uint(plane) >> 4) + i)); }
#else
uint load1(uint64_t plane, uint i) { return ReadUint(plane).at[i]; }
uvec2 load2(uint64_t plane, uint i) { return ReadUint2(plane).at[i]; }
uvec4 load4(uint64_t plane, uint i) { return ReadUint4(plane).at[i]; }
#endif

#define F32 0
#define F16 1
#define BF16 2
#define Q4_0 3
#define Q4_1 4
#define Q5_0 5
#define Q5_1 6
#define Q8_0 7
#define Q2_K 8
#define Q3_K 9
#define Q4_K 10
#define Q5_K 11
#define Q6_K 12

#if FORMAT <= BF16 || FORMAT == Q8_0
#define FORMAT_WIDE 1
#endif

#if FORMAT <= BF16
const uint super_blocks = 1;
#elif FORMAT == Q4_1 || FORMAT == Q5_1
const uint super_blocks = 1;
#elif FORMAT == Q4_0 || FORMAT == Q5_0 || FORMAT == Q8_0
const uint super_blocks = 2;
#else
const uint super_blocks = 8;
#endif

// ---- Aux: the scales ----

#if FORMAT <= BF16
struct Aux { uint none; };
struct Scale { float none; };
Aux load_aux(WeightPart part, uint super_index, uint row) { return Aux(0); }
Scale scale_of(Aux aux, uint s) { return Scale(0.0); }

#elif FORMAT == Q4_1 || FORMAT == Q5_1
struct Aux { uint dm; };
struct Scale { float d, m; };
Aux load_aux(WeightPart part, uint super_index, uint row) {
  return Aux(load1(part.aux, super_index * panel_rows + row));
}
Scale scale_of(Aux aux, uint s) {
  const vec2 dm = unpackHalf2x16(aux.dm);
  return Scale(dm.x, dm.y);
}

#elif FORMAT == Q4_0 || FORMAT == Q5_0 || FORMAT == Q8_0
struct Aux { uint dd; };
struct Scale { float d; };
Aux load_aux(WeightPart part, uint super_index, uint row) {
  return Aux(load1(part.aux, super_index * panel_rows + row));
}
Scale scale_of(Aux aux, uint s) {
  const vec2 dd = unpackHalf2x16(aux.dd);
  return Scale(s == 0 ? dd.x : dd.y);
}

#elif FORMAT == Q4_K || FORMAT == Q5_K
struct Aux { float d, dmin; uint a, b, c; };
struct Scale { float d, m; };
Aux load_aux(WeightPart part, uint super_index, uint row) {
  const uint i = super_index * 4 * panel_rows + row;
  const vec2 d = unpackHalf2x16(load1(part.aux, i));
  return Aux(d.x, d.y, load1(part.aux, i + panel_rows), load1(part.aux, i + 2 * panel_rows), load1(part.aux, i + 3 * panel_rows));
}
Scale scale_of(Aux aux, uint s) {
  const uint shift = (s & 3u) * 8u;
  const uint scale = s < 4u ? aux.a >> shift & 63u : (aux.c >> shift & 15u) | (aux.a >> (shift + 6u) & 3u) << 4;
  const uint least = s < 4u ? aux.b >> shift & 63u : (aux.c >> (shift + 4u) & 15u) | (aux.b >> (shift + 6u) & 3u) << 4;
  return Scale(aux.d * float(scale), -aux.dmin * float(least));
}

#elif FORMAT == Q6_K
struct Aux { float d; uint scales[4]; };
struct Scale { float d[2]; };
Aux load_aux(WeightPart part, uint super_index, uint row) {
  const uint i = super_index * 5 * panel_rows + row;
  Aux aux;
  aux.d = unpackHalf2x16(load1(part.aux, i)).x;
  [[unroll]] for (uint w = 0; w < 4; ++w) aux.scales[w] = load1(part.aux, i + (w + 1) * panel_rows);
  return aux;
}
Scale scale_of(Aux aux, uint s) { // two signed bytes a block
  const uint word = s < 4u ? s < 2u ? aux.scales[0] : aux.scales[1] : s < 6u ? aux.scales[2] : aux.scales[3];
  const int pair = int(word << ((s & 1u) != 0u ? 0u : 16u));
  Scale scale;
  scale.d[0] = aux.d * float(pair << 8 >> 24);
  scale.d[1] = aux.d * float(pair >> 24);
  return scale;
}

#elif FORMAT == Q2_K
struct Aux { float d, dmin; uint scales[4]; };
struct Scale { float d[2]; float m[2]; };
Aux load_aux(WeightPart part, uint super_index, uint row) {
  const uint i = super_index * 5 * panel_rows + row;
  const vec2 d = unpackHalf2x16(load1(part.aux, i));
  Aux aux;
  aux.d = d.x;
  aux.dmin = d.y;
  [[unroll]] for (uint w = 0; w < 4; ++w) aux.scales[w] = load1(part.aux, i + (w + 1) * panel_rows);
  return aux;
}
Scale scale_of(Aux aux, uint s) { // two bytes a block: scale and minimum, 4 bits each
  const uint word = s < 4u ? s < 2u ? aux.scales[0] : aux.scales[1] : s < 6u ? aux.scales[2] : aux.scales[3];
  const uint pair = word >> ((s & 1u) * 16u);
  Scale scale;
  [[unroll]] for (uint g = 0; g < 2; ++g) {
    scale.d[g] = aux.d * float(pair >> (8 * g) & 15u);
    scale.m[g] = -aux.dmin * float(pair >> (8 * g + 4) & 15u);
  }
  return scale;
}

#elif FORMAT == Q3_K
struct Aux { float d; uint a, b, c; };
struct Scale { float d[2]; };
Aux load_aux(WeightPart part, uint super_index, uint row) {
  const uint i = super_index * 4 * panel_rows + row;
  return Aux(unpackHalf2x16(load1(part.aux, i)).x, load1(part.aux, i + panel_rows), load1(part.aux, i + 2 * panel_rows),
             load1(part.aux, i + 3 * panel_rows));
}
Scale scale_of(Aux aux, uint s) { // scale i: low nibble i / 8 of byte i % 8 (a, b), high bits i / 4 of byte i % 4 (c)
  Scale scale;
  [[unroll]] for (uint g = 0; g < 2; ++g) {
    const uint i = 2 * s + g;
    const uint low = ((i & 4u) == 0 ? aux.a : aux.b) >> ((i & 3u) * 8u + (i >> 3) * 4u) & 15u;
    const uint high = aux.c >> ((i & 3u) * 8u + (i >> 2) * 2u) & 3u;
    scale.d[g] = aux.d * float(int(low | high << 4) - 32);
  }
  return scale;
}
#endif

// ---- Quants ----
// index = panel * blocks + block. An octet is what element 8 u + j of a block is unpacked from; u is the same in all lanes.

#if FORMAT <= BF16 || FORMAT == Q8_0
struct Quants { uint none; };
#if FORMAT == F32
struct Octet { uvec4 low, high; };
Octet load_octet(WeightPart part, uint index, uint row, uint u) {
  const uint i = (index * 8 + 2 * u) * panel_rows + row;
  return Octet(load4(part.quants, i), load4(part.quants, i + panel_rows));
}
float unpack(Octet o, Scale scale, uint j) { return uintBitsToFloat(j < 4 ? o.low[j] : o.high[j - 4]); }
#elif FORMAT == Q8_0
struct Octet { uvec2 q; };
Octet load_octet(WeightPart part, uint index, uint row, uint u) {
  return Octet(load2(part.quants, (index * 4 + u) * panel_rows + row));
}
float unpack(Octet o, Scale scale, uint j) {
  return scale.d * float(int(o.q[j / 4] << (24 - j % 4 * 8)) >> 24);
}
#else
struct Octet { uvec4 q; };
Octet load_octet(WeightPart part, uint index, uint row, uint u) {
  return Octet(load4(part.quants, (index * 4 + u) * panel_rows + row));
}
#if FORMAT == F16
float unpack(Octet o, Scale scale, uint j) { return unpackHalf2x16(o.q[j / 2])[j % 2]; }
#else
float unpack(Octet o, Scale scale, uint j) {
  return uintBitsToFloat(j % 2 == 0 ? o.q[j / 2] << 16 : o.q[j / 2] & 0xFFFF0000u);
}
#endif
#endif

#elif FORMAT == Q2_K || FORMAT == Q3_K
struct Quants {
  uvec2 q;
#if FORMAT == Q3_K
  uint high;
#endif
};
struct Octet {
  uint q;
#if FORMAT == Q3_K
  uint high;
#endif
  float d;
#if FORMAT == Q2_K
  float m;
#endif
};
Quants load_quants(WeightPart part, uint index, uint row) {
  Quants quants;
  quants.q = load2(part.quants, index * panel_rows + row);
#if FORMAT == Q3_K
  quants.high = load1(part.high, index * panel_rows + row);
#endif
  return quants;
}
Octet octet_of(Quants q, Scale scale, uint u) {
  Octet o;
  o.q = (u < 2 ? q.q.x : q.q.y) >> (u % 2 * 16);
  o.d = u < 2 ? scale.d[0] : scale.d[1];
#if FORMAT == Q2_K
  o.m = u < 2 ? scale.m[0] : scale.m[1];
#else
  o.high = q.high >> (8 * u);
#endif
  return o;
}
float unpack(Octet o, Scale scale, uint j) {
#if FORMAT == Q2_K
  return fma(float(o.q >> (2 * j) & 3u), o.d, o.m);
#else
  return o.d * float(int((o.q >> (2 * j) & 3u) | (o.high >> j & 1u) << 2) - 4);
#endif
}

#else // four bits and more
#if FORMAT == Q5_0 || FORMAT == Q5_1 || FORMAT == Q5_K
#define FIFTH_BIT 1
#endif
struct Quants {
  uvec4 q;
#ifdef FIFTH_BIT
  uint high;
#elif FORMAT == Q6_K
  uvec2 high;
#endif
};
struct Octet {
  uvec2 q; // four elements each, in the low nibbles of the bytes
#if defined(FIFTH_BIT) || FORMAT == Q6_K
  uint high;
#endif
#if FORMAT == Q6_K
  float d;
#endif
};
Quants load_quants(WeightPart part, uint index, uint row) {
  Quants quants;
  quants.q = load4(part.quants, index * panel_rows + row);
#ifdef FIFTH_BIT
  quants.high = load1(part.high, index * panel_rows + row);
#elif FORMAT == Q6_K
  quants.high = load2(part.high, index * panel_rows + row);
#endif
  return quants;
}
Octet octet_of(Quants q, Scale scale, uint u) {
  Octet o;
  o.q = ((u & 1u) == 0 ? q.q.xy : q.q.zw) >> (u / 2 * 4);
#ifdef FIFTH_BIT
  o.high = q.high >> (8 * u);
#elif FORMAT == Q6_K
  o.high = (u < 2 ? q.high.x : q.high.y) >> (u % 2 * 16);
  o.d = u < 2 ? scale.d[0] : scale.d[1];
#endif
  return o;
}
float unpack(Octet o, Scale scale, uint j) {
  const uint low = o.q[j / 4] >> (j % 4 * 8) & 15u;
#if FORMAT == Q4_0
  return fma(float(low), scale.d, -8.0 * scale.d);
#elif FORMAT == Q4_1 || FORMAT == Q4_K
  return fma(float(low), scale.d, scale.m);
#elif FORMAT == Q5_0
  return fma(float(low | (o.high >> j & 1u) << 4), scale.d, -16.0 * scale.d);
#elif FORMAT == Q5_1 || FORMAT == Q5_K
  return fma(float(low | (o.high >> j & 1u) << 4), scale.d, scale.m);
#else
  return o.d * float(int(low | (o.high >> (2 * j) & 3u) << 4) - 32);
#endif
}
#endif

#endif
