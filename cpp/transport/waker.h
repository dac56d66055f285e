// Waker: a file descriptor that ends another thread's poll. Any thread may call any method.
#pragma once

namespace fastps {

class Waker {
 public:
  Waker();
  ~Waker();
  Waker(const Waker&) = delete;
  Waker& operator=(const Waker&) = delete;

  int fd() const { return fd_; }  // readable after Wake until Clear
  void Wake();
  void Clear();

 private:
  const int fd_;
};

}  // namespace fastps
