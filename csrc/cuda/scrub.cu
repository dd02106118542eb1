#include "scrub.cuh"

namespace proact::cuda {

void encode(const SweptMemories& memories, const DeviceCodes& codes, Stream stream) {
    launch("encoding codewords", &encode_kernel, Grid{memories.blocks, sweep_threads}, stream,
           memories, codes);
}

void scrub(const SweptMemories& memories, const DeviceCodes& codes, const DeviceSweepLog& log,
           Stream stream) {
    launch("scrubbing codewords", &scrub_kernel, Grid{memories.blocks, sweep_threads}, stream,
           memories, codes, log);
}

}  // namespace proact::cuda
