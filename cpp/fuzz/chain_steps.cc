// Steps of the chain sockets: stories of servers that replicate shards.
#include "fuzz/chain_victim.h"
#include "fuzz/victim.h"

namespace fastps::fuzz {

void TakeChainFrames(Victim& victim, std::span<const Bytes> frames) {
  victim.chains().TakeFrames(frames);
}

void TakeChainStory(Victim& victim, Bytes bytes) {
  ChainVictim& chains = victim.chains();
  Fields fields(bytes);
  while (!fields.empty()) {
    switch (fields.Below(16)) {
      case 0:
      case 1:
      case 2:
      case 3:
        chains.Ask(fields);
        break;
      case 4:
      case 5:
      case 6:
      case 7:
        chains.Deliver(fields);
        break;
      case 8:
      case 9:
      case 10:
        chains.Forge(fields);
        break;
      case 11:
      case 12:
        chains.ChangeMap(fields);
        break;
      case 13:
        chains.CloseRound(fields);
        break;
      case 14:
        chains.Wait(fields);
        break;
      case 15:
        chains.Report(fields);
        break;
    }
  }
}

}  // namespace fastps::fuzz
