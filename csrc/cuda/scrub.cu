#include "scrub.cuh"

namespace proact::cuda {

void encode_codewords(const DeviceCodewords& memory, const CodeTables& code, Stream stream) {
    launch("encoding codewords", &encode_kernel, grid_over(memory.codewords, scrub_threads), stream,
           memory, code);
}

void scrub_codewords(const DeviceCodewords& memory, const CodeTables& code,
                     const DeviceReplacements& replacements, std::uintptr_t counts, Stream stream) {
    launch("scrubbing codewords", &scrub_kernel, grid_over(memory.codewords, scrub_threads), stream,
           memory, code, replacements, reinterpret_cast<unsigned long long*>(counts));
}

}  // namespace proact::cuda
