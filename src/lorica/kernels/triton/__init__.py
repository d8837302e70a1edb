"""The Triton side of the kernels. Imported only where a kernel runs, so that Lorica works without Triton.

All of them read with 64-bit offsets, compute in fp32, and take any leading shape; the features have to be the last
axis. Rows that cannot be viewed in place (a slice with strided features, say) are copied and copied back.
"""
