// Loops over rows whose ends do not fill a vector. Included by a kernel file, so once for each instruction set.

// A whole vector, or the first elements of one, so that a loop body is written once for both.
struct Whole {};
struct First {
  int64_t count;
};
template <class T>
inline Vector<sum_t<T>> load_at(const T* from, Whole) {
  return load(from);
}
template <class T>
inline Vector<sum_t<T>> load_at(const T* from, First first) {
  return load_first(from, first.count);
}
template <class T>
inline void store_at(T* to, Vector<sum_t<T>> values, Whole) {
  store(to, values);
}
template <class T>
inline void store_at(T* to, Vector<sum_t<T>> values, First first) {
  store_first(to, values, first.count);
}

// The values, with another one in the lanes beyond the end.
template <class S>
inline Vector<S> with_end(const Vector<S>& values, S, Whole) {
  return values;
}
template <class S>
inline Vector<S> with_end(const Vector<S>& values, S beyond, First first) {
  return first_lanes<S>(first.count) ? values : broadcast(beyond);
}

// Calls f(c, Whole or First) for every vector of `count` elements.
template <class S, class F>
inline void for_each_vector(int64_t count, F&& f) {
  int64_t c = 0;
  for (; c + LANES<S> <= count; c += LANES<S>) f(c, Whole{});
  if (c < count) f(c, First{count - c});
}
