// What has become of a repair, in words, and whether that is good: what cards and badges say of it.

export const STATES = {
  recorded: ['is only recorded', ''], error: ['is next in line', ''], started: ['is being looked into', ''], diagnosed: ['is being looked into', ''],
  retrying: ['the run is repeated later', ''], proposed: ['a change is being tried', ''], verified: ['a change is proven', 'good'],
  unverified: ['a change is suggested', 'waits'], waiting: ['waits for you', 'waits'], approved: ['is being published', 'good'], not_a_bug: ['needs you', 'bad'],
  over: ['over', ''], rejected: ['you said no', ''], expired: ['nobody decided in time', 'bad'], published: ['healed', 'good'], failed: ['was not repaired', 'bad'],
  blocked: ['blocked: needs you', 'bad'], rolled_back: ['the repair was undone', 'bad'],
};
