// Products of the small matrices that attention is made of, all of them in a core's cache. Included inside a kernel file, so once for
// each instruction set (each_isa.h); attention_tiles.h says how the matrices lie.

// Rows by vectors of a product's block, whose sums stay in registers.
constexpr int BLOCK_ROWS = MIXFAST_AVX512 ? 8 : 4;
constexpr int BLOCK_VECTORS = 2;

// How the left matrix lies: row after row, or column after column.
enum class Left { by_rows, by_columns };
// Whether a product replaces what is there or is added to it.
enum class Into { replace, add };

// R rows and V vectors of columns of c (+)= a b. Steps: elements from one row (by_columns: column) to the next.
template <class S, int R, int V, Left LEFT, Into INTO>
[[gnu::always_inline]] inline void product_block(const S* a, int64_t a_step, const S* b, int64_t b_step, int64_t depth, S* c,
                                                 int64_t c_step) {
  Vector<S> sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[r][v] = INTO == Into::add ? load(c + r * c_step + v * LANES<S>) : Vector<S>{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vector<S> row[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) row[v] = load(b + v * LANES<S>);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const S factor = LEFT == Left::by_rows ? a[r * a_step] : a[r];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[r][v] += row[v] * factor;
    }
    a += LEFT == Left::by_rows ? 1 : a_step;
    b += b_step;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(c + r * c_step + v * LANES<S>, sums[r][v]);
  }
}

// c [rows, columns] (+)= a [rows, depth] b [depth, columns]. The rows are rounded up to blocks and the columns to vectors: there must be
// room for them in c, and something that may be read in a and b.
template <Left LEFT, Into INTO, class S>
__attribute__((noinline)) void multiply_tile(const S* a, int64_t a_step, const S* b, int64_t b_step, S* c, int64_t c_step,
                                             int64_t rows, int64_t depth, int64_t columns) {
  constexpr int64_t WIDE = BLOCK_VECTORS * LANES<S>;
  // The panel of b is what every block of rows reads again.
  for (int64_t column = 0; column < columns; column += WIDE) {
    const bool is_wide = columns - column > LANES<S>;
    for (int64_t row = 0; row < rows; row += BLOCK_ROWS) {
      const S* left = a + (LEFT == Left::by_rows ? row * a_step : row);
      S* to = c + row * c_step + column;
      if (is_wide) {
        product_block<S, BLOCK_ROWS, BLOCK_VECTORS, LEFT, INTO>(left, a_step, b + column, b_step, depth, to, c_step);
      } else {
        product_block<S, BLOCK_ROWS, 1, LEFT, INTO>(left, a_step, b + column, b_step, depth, to, c_step);
      }
    }
  }
}
